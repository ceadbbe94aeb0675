import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** The job of bench/job.py on Kafka Streams: one thread, a cached RocksDB store with a changelog, its defaults. */
public final class Job {
    record Order(String order_id, String account_id, long sequence, String symbol, String side,
                 long quantity_lots, long price_ticks, long submitted_at_ms, String time_in_force) {}

    record Position(String account_id, long orders, long position_lots, long turnover_ticks) {}

    record Decision(Order order, long orders, long position_lots, long reference_price_ticks,
                    long price_age_ms, long limits_version) {}

    static final ObjectMapper JSON = new ObjectMapper();
    static final ObjectReader ORDER = JSON.readerFor(Order.class);
    static final ObjectReader POSITION = JSON.readerFor(Position.class);
    static final ObjectWriter POSITION_OUT = JSON.writerFor(Position.class);
    static final ObjectWriter DECISION_OUT = JSON.writerFor(Decision.class);

    static final class Decide implements Processor<byte[], byte[], byte[], byte[]> {
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], byte[]> positions;

        @Override
        public void init(ProcessorContext<byte[], byte[]> given) {
            context = given;
            positions = given.getStateStore("positions");
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            try {
                Order order = ORDER.readValue(record.value());
                byte[] before = positions.get(record.key());
                Position moved = move(order, before == null ? null : POSITION.readValue(before));
                positions.put(record.key(), POSITION_OUT.writeValueAsBytes(moved));
                Decision decision =
                    new Decision(order, moved.orders(), moved.position_lots(), order.price_ticks(), 0, 1);
                context.forward(record.withValue(DECISION_OUT.writeValueAsBytes(decision)));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        private static Position move(Order order, Position before) {
            long signed = order.side().equals("buy") ? order.quantity_lots() : -order.quantity_lots();
            long turnover = order.quantity_lots() * order.price_ticks();
            return before == null
                ? new Position(order.account_id(), 1, signed, turnover)
                : new Position(order.account_id(), before.orders() + 1, before.position_lots() + signed,
                               before.turnover_ticks() + turnover);
        }
    }

    /** Tells the harness when the last partition's store is restored, and how long that took from the first's start. */
    static final class Restores implements StateRestoreListener {
        private final int partitions;
        private long startedAt;
        private int ended;

        Restores(int partitions) {
            this.partitions = partitions;
        }

        @Override
        public synchronized void onRestoreStart(TopicPartition partition, String store, long from, long to) {
            if (startedAt == 0) {
                startedAt = System.nanoTime();
            }
        }

        @Override
        public void onBatchRestored(TopicPartition partition, String store, long offset, long count) {}

        @Override
        public synchronized void onRestoreEnd(TopicPartition partition, String store, long total) {
            ended++;
            if (ended == partitions) {
                double seconds = (System.nanoTime() - startedAt) / 1e9;
                System.out.println("{\"mark\": \"restored\", \"seconds\": " + seconds + "}");
            }
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        Map<String, String> given = parse(arguments);
        int partitions = Integer.parseInt(given.get("partitions"));
        var store = Stores.keyValueStoreBuilder(
            Stores.persistentKeyValueStore("positions"), Serdes.ByteArray(), Serdes.ByteArray());
        var topology = new Topology()
            .addSource("orders", given.get("input"))
            .addProcessor("decide", Decide::new, "orders")
            .addStateStore(store.withCachingEnabled(), "decide")
            .addSink("decisions", given.get("output"), "decide");
        var streams = new KafkaStreams(topology, settings(given));
        var ended = new CountDownLatch(1);
        streams.setGlobalStateRestoreListener(new Restores(partitions));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            ended.countDown();
        }));
        endWithParent();
        streams.start();
        ended.await();
    }

    private static Properties settings(Map<String, String> given) {
        var settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, given.get("app-id"));
        settings.put(StreamsConfig.CLIENT_ID_CONFIG, given.get("client-id"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, given.get("bootstrap"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, given.get("data-dir"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        // a second worker has its share at once, however little of the tables it has; by default after 10 minutes
        settings.put(StreamsConfig.ACCEPTABLE_RECOVERY_LAG_CONFIG, Long.MAX_VALUE);
        if (given.containsKey("session-timeout-ms")) {
            settings.put(
                StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG),
                Integer.parseInt(given.get("session-timeout-ms")));
        }
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
            given.get("guarantee").equals("exactly_once")
                ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArray().getClass());
        settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArray().getClass());
        return settings;
    }

    private static Map<String, String> parse(String[] arguments) {
        var parsed = new HashMap<String, String>();
        for (String argument : arguments) {
            String[] parts = argument.substring(2).split("=", 2);
            parsed.put(parts[0], parts[1]);
        }
        return parsed;
    }

    private static void endWithParent() {
        var watch = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {}
            } catch (IOException error) {
                // the same as its end
            }
            Runtime.getRuntime().halt(1);
        });
        watch.setDaemon(true);
        watch.start();
    }
}
