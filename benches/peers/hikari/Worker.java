import com.zaxxer.hikari.HikariDataSource;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.LockSupport;

/** One thread that gets and returns connections until the stop flag is set. */
final class Worker implements Runnable {
    /** Operations without a hold between two reads of the stop flag. */
    private static final int BATCH = 64;

    final Waits waits = new Waits();
    long operations;
    long voluntarySwitches;
    Exception failure;

    private final HikariDataSource pool;
    private final Request request;
    private final CountDownLatch ready;
    private final CountDownLatch begin;
    private final StopFlag stop;

    Worker(HikariDataSource pool, Request request, CountDownLatch ready, CountDownLatch begin, StopFlag stop) {
        this.pool = pool;
        this.request = request;
        this.ready = ready;
        this.begin = begin;
        this.stop = stop;
    }

    @Override public void run() {
        try {
            ready.countDown();
            begin.await();
            long before = voluntarySwitchesOfThisThread();
            if (request.holdNanos() > 0) {
                operations = timedWithHold();
            } else if (request.timed()) {
                operations = timedWithoutHold();
            } else {
                operations = untimed();
            }
            voluntarySwitches = voluntarySwitchesOfThisThread() - before;
        } catch (Exception e) {
            failure = e;
        }
    }

    private long untimed() throws SQLException {
        long done = 0;
        while (!stop.set) {
            for (int i = 0; i < BATCH; i++) {
                pool.getConnection().close();
            }
            done += BATCH;
        }
        return done;
    }

    private long timedWithoutHold() throws SQLException {
        long done = 0;
        while (!stop.set) {
            for (int i = 0; i < BATCH; i++) {
                timedGet().close();
            }
            done += BATCH;
        }
        return done;
    }

    private long timedWithHold() throws SQLException {
        boolean busy = request.kind().equals("busy");
        long done = 0;
        while (!stop.set) {
            Connection connection = timedGet();
            hold(busy);
            connection.close();
            done++;
        }
        return done;
    }

    private Connection timedGet() throws SQLException {
        long start = System.nanoTime();
        Connection connection = pool.getConnection();
        waits.record(System.nanoTime() - start);
        return connection;
    }

    /** Parks again if parking ends at once, because a pool may leave a permit behind. */
    private void hold(boolean busy) {
        long start = System.nanoTime();
        long left = request.holdNanos();
        while (left > 0) {
            if (busy) {
                Thread.onSpinWait();
            } else {
                LockSupport.parkNanos(left);
            }
            left = request.holdNanos() - (System.nanoTime() - start);
        }
    }

    private static long voluntarySwitchesOfThisThread() throws Exception {
        for (String line : Files.readAllLines(Path.of("/proc/thread-self/status"))) {
            if (line.startsWith("voluntary_ctxt_switches:")) {
                return Long.parseLong(line.substring(line.indexOf(':') + 1).trim());
            }
        }
        return 0;
    }
}
