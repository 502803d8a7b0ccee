import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.pool.HikariPool;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.SQLTransientConnectionException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/** The day of a large service, for `benches/day.rs`. ../README.md describes the commands. */
final class Day {
    private static final int STACK_BYTES = 256 * 1024;
    private static final long DAY_MILLIS = TimeUnit.DAYS.toMillis(1);
    /** The last waiters have said that they wait, but may not sleep yet. */
    private static final long FALLING_ASLEEP_MILLIS = 50;

    /** A pool, or what is in its place. */
    interface Lender {
        /** Null if there was none in time. */
        Lent get(long millis) throws Exception;

        void close() throws Exception;
    }

    interface Lent {
        void giveBack() throws Exception;
    }

    private static boolean isPool;
    private static Lender pool;
    private static Load load;
    private static Crowd crowd;
    private static final List<Lent> lent = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        isPool = arguments[0].equals("pool");
        System.out.printf("{\"version\":\"%s\"}%n", isPool ? Peer.versions() : "");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            System.out.println(obey(line.split(" ")));
        }
        System.exit(0);
    }

    private static long obey(String[] words) throws Exception {
        switch (words[0]) {
            case "open" -> open(Integer.parseInt(words[1]));
            case "load" -> load = new Load(Integer.parseInt(words[1]), Long.parseLong(words[2]));
            case "gets" -> {
                return load.gets.get();
            }
            case "end" -> load.end();
            case "lend" -> {
                for (int i = Integer.parseInt(words[1]); i > 0; i--) {
                    lent.add(pool.get(DAY_MILLIS));
                }
            }
            case "wait" -> {
                crowd = new Crowd(Integer.parseInt(words[1]), 0);
                crowd.allWait();
            }
            case "serve" -> {
                return serve();
            }
            case "leave" -> crowd.end();
            case "timeouts" -> {
                return timeouts(Integer.parseInt(words[1]), Long.parseLong(words[2]));
            }
            default -> throw new IllegalArgumentException(words[0]);
        }
        return 0;
    }

    private static void open(int connections) throws Exception {
        if (pool != null) {
            pool.close();
        }
        pool = isPool ? openPool(connections) : openSemaphore(connections);
    }

    private static Lender openPool(int connections) throws Exception {
        HikariConfig config = new HikariConfig();
        config.setDataSource(new StubDataSource());
        config.setMaximumPoolSize(connections);
        config.setMinimumIdle(connections);
        // A HikariDataSource has one timeout for all gets.
        HikariPool hikari = new HikariPool(config);
        while (hikari.getIdleConnections() < connections) {
            Thread.sleep(1);
        }
        return new Lender() {
            @Override public Lent get(long millis) throws Exception {
                try {
                    Connection connection = hikari.getConnection(millis);
                    return connection::close;
                } catch (SQLTransientConnectionException timeout) {
                    return null;
                }
            }

            @Override public void close() throws Exception {
                hikari.shutdown();
            }
        };
    }

    private static Lender openSemaphore(int connections) {
        Semaphore semaphore = new Semaphore(connections);
        return new Lender() {
            @Override public Lent get(long millis) throws Exception {
                return semaphore.tryAcquire(millis, TimeUnit.MILLISECONDS) ? semaphore::release : null;
            }

            @Override public void close() {
            }
        };
    }

    private static long serve() throws Exception {
        long start = System.nanoTime();
        for (Lent one : lent) {
            one.giveBack();
        }
        lent.clear();
        crowd.allBack();
        return System.nanoTime() - start;
    }

    private static long timeouts(int waiters, long gathering) throws Exception {
        long end = System.nanoTime() + gathering;
        Crowd waiting = new Crowd(waiters, end);
        waiting.allWait();
        boolean inTime = System.nanoTime() < end;
        long last = waiting.end();
        return inTime ? Math.max(0, last - end) : timeouts(waiters, 2 * gathering);
    }

    private static Thread start(Runnable work) {
        Thread thread = new Thread(null, work, "day", STACK_BYTES);
        thread.start();
        return thread;
    }

    /** A thread that fails ends the process, and so the measurement. */
    private static void fail(Exception failure) {
        failure.printStackTrace();
        Runtime.getRuntime().halt(1);
    }

    /** Threads that get a connection, sleep and return it, until they shall stop. */
    private static final class Load {
        final AtomicLong gets = new AtomicLong();
        private final List<Thread> threads = new ArrayList<>();
        private volatile boolean stop;

        Load(int threads, long holdNanos) {
            for (int i = 0; i < threads; i++) {
                // So the gets are spread over the time of a hold.
                long offset = holdNanos * i / threads;
                this.threads.add(Day.start(() -> work(offset, holdNanos)));
            }
        }

        private void work(long offset, long holdNanos) {
            try {
                sleep(offset);
                while (!stop) {
                    Lent one = pool.get(DAY_MILLIS);
                    sleep(holdNanos);
                    one.giveBack();
                    gets.incrementAndGet();
                }
            } catch (Exception failure) {
                fail(failure);
            }
        }

        void end() throws InterruptedException {
            stop = true;
            for (Thread thread : threads) {
                thread.join();
            }
        }

        /** Parks again if parking ends at once, because a pool may leave a permit behind. */
        private static void sleep(long nanos) {
            long start = System.nanoTime();
            for (long left = nanos; left > 0; left = nanos - (System.nanoTime() - start)) {
                LockSupport.parkNanos(left);
            }
        }
    }

    /** Threads that wait. None of them exits before all are back. */
    private static final class Crowd {
        private final List<Thread> threads = new ArrayList<>();
        private final long[] backAt;
        private final AtomicInteger waiting = new AtomicInteger();
        private final AtomicInteger back = new AtomicInteger();
        private final CountDownLatch door = new CountDownLatch(1);

        /** With an end, each waits until then in vain; else until it has a connection. */
        Crowd(int waiters, long end) {
            backAt = new long[waiters];
            for (int i = 0; i < waiters; i++) {
                int number = i;
                threads.add(Day.start(() -> work(number, end)));
            }
        }

        private void work(int number, long end) {
            try {
                waiting.incrementAndGet();
                if (end == 0) {
                    pool.get(DAY_MILLIS).giveBack();
                } else {
                    long left = Math.max(0, end - System.nanoTime());
                    if (pool.get(TimeUnit.NANOSECONDS.toMillis(left)) != null) {
                        throw new IllegalStateException("all connections are lent");
                    }
                }
                backAt[number] = System.nanoTime();
                back.incrementAndGet();
                door.await();
            } catch (Exception failure) {
                fail(failure);
            }
        }

        void allWait() throws InterruptedException {
            while (waiting.get() < threads.size()) {
                Thread.sleep(1);
            }
            Thread.sleep(FALLING_ASLEEP_MILLIS);
        }

        void allBack() throws InterruptedException {
            while (back.get() < threads.size()) {
                Thread.sleep(1);
            }
        }

        /** When the last one was back. */
        long end() throws InterruptedException {
            allBack();
            door.countDown();
            long last = Long.MIN_VALUE;
            for (int i = 0; i < threads.size(); i++) {
                threads.get(i).join();
                last = Math.max(last, backAt[i]);
            }
            return last;
        }
    }
}
