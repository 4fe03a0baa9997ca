package peers;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Properties;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.state.Stores;

/** Env: BOOTSTRAP, CLIENT (a file with connection settings), WORKLOAD, SCHEMAS, GROUP, STATE_DIR; optional MODE (drain or steady),
 *  LOOKUP (global or local), STORE (memory or rocksdb), THREADS, COMMIT_MS, and KS_<name with _ for .> for any Streams setting.
 *  The defaults are the fastest of what was tried: store in memory, copied to each instance; commits each second in a drain. */
public final class Main {
    static String env(String name, String other) {
        String v = System.getenv(name);
        return v == null || v.isEmpty() ? other : v;
    }

    public static void main(String[] args) throws Exception {
        Schemas schemas = new Schemas(System.getenv("SCHEMAS"));
        Workload workload = Workload.read(System.getenv("WORKLOAD"));
        AvroSerde avro = new AvroSerde(schemas);
        boolean steady = env("MODE", "drain").equals("steady");

        Properties p = new Properties();
        try (var client = Files.newBufferedReader(Path.of(System.getenv("CLIENT")))) {
            p.load(client);
        }
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("GROUP"));
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("BOOTSTRAP"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, System.getenv("STATE_DIR"));
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, env("THREADS", "2"));
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, env("COMMIT_MS", steady ? "50" : "1000"));
        p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, "4000");
        p.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
        p.put("consumer.max.poll.records", "4000");
        p.put("consumer.max.partition.fetch.bytes", "4194304");
        p.put("consumer.auto.offset.reset", "earliest");
        p.put("producer.compression.type", "lz4");
        p.put("producer.linger.ms", steady ? "5" : "50");
        p.put("producer.batch.size", "262144");
        p.put("producer.buffer.memory", "134217728");
        System.getenv().forEach((k, v) -> { if (k.startsWith("KS_")) p.put(k.substring(3).replace('_', '.'), v); });

        StreamsBuilder b = new StreamsBuilder();
        Serde<String> key = Serdes.String();
        var supplier = env("STORE", "memory").equals("rocksdb") ? Stores.persistentKeyValueStore(PersonStore.NAME) : Stores.inMemoryKeyValueStore(PersonStore.NAME);
        var store = Stores.keyValueStoreBuilder(supplier, key, Serdes.ByteArray());
        boolean global = env("LOOKUP", "global").equals("global");
        if (global) {
            b.addGlobalStore(store.withLoggingDisabled(), "person", Consumed.with(key, Serdes.ByteArray()), PersonStore.Update::new);
        } else {                       // co-partitioned: a store per task, its changelog is its backup
            b.addStateStore(store);
            b.stream("person", Consumed.with(key, Serdes.ByteArray())).process(PersonStore.Update::new, PersonStore.NAME);
        }
        List<String> inputs = workload.domains().stream().map(d -> d + ".change").toList();
        b.stream(inputs, Consumed.with(key, avro))
            .process(() -> new Verify(schemas, workload, avro), global ? new String[0] : new String[] {PersonStore.NAME})
            .to((k, v, c) -> v.topic(), Produced.with(key, Serdes.serdeFrom((t, v) -> avro.encode(t, v.value()), (t, d) -> null)));

        KafkaStreams streams = new KafkaStreams(b.build(p), p);
        long start = System.nanoTime();
        streams.setGlobalStateRestoreListener(new StateRestoreListener() {
            public void onRestoreStart(TopicPartition tp, String s, long from, long to) {}
            public void onBatchRestored(TopicPartition tp, String s, long end, long n) {}
            public void onRestoreEnd(TopicPartition tp, String s, long n) {
                System.out.printf("RESTORED %.2f %s %d%n", (System.nanoTime() - start) / 1e9, tp, n);
            }
        });
        streams.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(java.time.Duration.ofSeconds(10))));
        streams.start();
    }
}
