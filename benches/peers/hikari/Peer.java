import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Collectors;

/** Measures HikariCP with a driver that does nothing. ../README.md describes the protocol. */
final class Peer {
    private static final int STACK_BYTES = 256 * 1024;

    public static void main(String[] arguments) throws Exception {
        System.out.printf("{\"version\":\"%s\"}%n", versions());
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        Request last = null;
        HikariDataSource pool = null;
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            Request request = Request.parse(line);
            // Each cell has a pool of its own.
            if (!request.sameCell(last)) {
                if (pool != null) {
                    pool.close();
                }
                pool = open(request.connections());
                last = request;
            }
            System.out.println(pass(pool, request));
        }
        System.exit(0);
    }

    /** Of the pool and of its runtime. */
    static String versions() throws IOException {
        String runtime = System.getProperty("java.vm.name") + " " + System.getProperty("java.version");
        return version() + " on " + runtime;
    }

    private static String version() throws IOException {
        Properties properties = new Properties();
        String file = "/META-INF/maven/com.zaxxer/HikariCP/pom.properties";
        try (InputStream stream = HikariDataSource.class.getResourceAsStream(file)) {
            properties.load(stream);
        }
        return properties.getProperty("version");
    }

    private static HikariDataSource open(int connections) throws InterruptedException {
        HikariConfig config = new HikariConfig();
        config.setDataSource(new StubDataSource());
        config.setMaximumPoolSize(connections);
        config.setMinimumIdle(connections);
        HikariDataSource pool = new HikariDataSource(config);
        while (pool.getHikariPoolMXBean().getIdleConnections() < connections) {
            Thread.sleep(1);
        }
        return pool;
    }

    private static String pass(HikariDataSource pool, Request request) throws Exception {
        CountDownLatch ready = new CountDownLatch(request.threads());
        CountDownLatch begin = new CountDownLatch(1);
        StopFlag stop = new StopFlag();
        List<Worker> workers = new ArrayList<>();
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < request.threads(); i++) {
            Worker worker = new Worker(pool, request, ready, begin, stop);
            Thread thread = new Thread(null, worker, "worker-" + i, STACK_BYTES);
            workers.add(worker);
            threads.add(thread);
            thread.start();
        }
        ready.await();
        long start = System.nanoTime();
        begin.countDown();
        Thread.sleep(request.millis());
        stop.set = true;
        for (Thread thread : threads) {
            thread.join();
        }
        return answer(workers, System.nanoTime() - start);
    }

    private static String answer(List<Worker> workers, long elapsed) throws Exception {
        Waits waits = new Waits();
        long switches = 0;
        for (Worker worker : workers) {
            if (worker.failure != null) {
                throw worker.failure;
            }
            waits.add(worker.waits);
            switches += worker.voluntarySwitches;
        }
        String operations =
                workers.stream().map(worker -> Long.toString(worker.operations)).collect(Collectors.joining(","));
        return String.format(
                "{\"operations\":[%s],\"elapsed_ns\":%d,\"waits\":%s,\"voluntary_switches\":%d}",
                operations, elapsed, waits.toJson(), switches);
    }
}
