// Reads this agency's topics: committed deliveries, each handled once, in the order of each lane. Put your work into `handle`.
//
// README.md says how to run it. Needs kafka-clients and avro (pom.xml).

import java.io.IOException;
import java.io.Reader;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.AuthenticationException;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Consume {
    private static final Path HERE = Path.of("");

    /**
     * Your work. `op` c, r, u: `data` is the row as it is now. d, w: the row is gone, or no longer yours to see: delete it.
     *
     * Hold rows by topic, message key and row_key together. What this does must be durable when it returns: best write it, and
     * the seq of its topic and lane, in one transaction of your own database.
     */
    private static void handle(ConsumerRecord<byte[], byte[]> record, GenericRecord delivery) {
        System.out.printf(
                "{\"topic\": \"%s\", \"lane\": %d, \"offset\": %d, \"delivery\": %s}%n",
                record.topic(), record.partition(), record.offset(), delivery);
    }

    private static final Map<Integer, GenericDatumReader<GenericRecord>> SCHEMAS = new HashMap<>();

    /** A value is a zero byte, the schema's id in four bytes, Avro. */
    private static GenericRecord decode(byte[] value) throws IOException {
        int id = ByteBuffer.wrap(value).getInt(1);
        if (!SCHEMAS.containsKey(id)) {
            Path file = HERE.resolve("schemas").resolve(id + ".avsc");
            if (value[0] != 0 || !Files.exists(file)) {
                throw new IOException("schema " + id + " is not in schemas/: something has changed; ask for a new bundle");
            }
            SCHEMAS.put(id, new GenericDatumReader<>(new Schema.Parser().parse(Files.readString(file))));
        }
        return SCHEMAS.get(id).read(null, DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null));
    }

    /** The last seq of each topic and lane that was handled. They count from 1 without gaps: a lower one is a repetition. */
    private static final class Progress implements ConsumerRebalanceListener {
        private final Path file;
        private final Properties last = new Properties();
        private final Map<String, Long> due = new HashMap<>();

        Progress(String group) throws IOException {
            file = HERE.resolve("progress." + group + ".properties");
            load();
        }

        private void load() throws IOException {
            Properties saved = new Properties();
            if (Files.exists(file)) {
                try (Reader reader = Files.newBufferedReader(file)) {
                    saved.load(reader);
                }
            }
            for (String place : saved.stringPropertyNames()) {
                long seq = Math.max(Long.parseLong(saved.getProperty(place)), seqOf(place));
                last.setProperty(place, Long.toString(seq));
            }
        }

        private long seqOf(String place) {
            return Long.parseLong(last.getProperty(place, "0"));
        }

        /** Who had the lanes until now has saved what came. From there on each must go on without a gap, over a restart too. */
        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> lanes) {
            try {
                load();
            } catch (IOException unreadable) {
                throw new UncheckedIOException(unreadable);
            }
            due.clear();
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> lanes) {
            // what was handled is saved batch by batch
        }

        boolean isNew(ConsumerRecord<byte[], byte[]> record, long seq) {
            String place = record.topic() + "/" + record.partition();
            long expected = due.getOrDefault(place, seqOf(place) + 1);
            if (seq > expected) {
                System.err.printf("%s: seq %d to %d did not come: see 'A gap' in README.md%n", place, expected, seq - 1);
            }
            due.put(place, Math.max(seq + 1, expected));
            if (seq <= seqOf(place)) {
                return false;
            }
            last.setProperty(place, Long.toString(seq));
            return true;
        }

        void save() throws IOException {
            Path part = file.resolveSibling(file.getFileName() + ".part");
            try (Writer writer = Files.newBufferedWriter(part)) {
                last.store(writer, null);
            }
            Files.move(part, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
        }
    }

    private static boolean atEnd(KafkaConsumer<byte[], byte[]> consumer) {
        Map<TopicPartition, Long> ends = consumer.endOffsets(consumer.assignment());
        return !ends.isEmpty() && ends.entrySet().stream().allMatch(lane -> consumer.position(lane.getKey()) >= lane.getValue());
    }

    public static void main(String[] arguments) throws IOException {
        Properties settings = new Properties();
        try (Reader reader = Files.newBufferedReader(HERE.resolve("client.properties"))) {
            settings.load(reader);
        }
        List<String> options = List.of(arguments);
        int named = options.indexOf("--group");
        String group = settings.getProperty("group.id") + (named < 0 ? "" : "." + options.get(named + 1));
        List<String> topics = List.of(((String) settings.remove("topics")).split(","));
        settings.setProperty("group.id", group);
        settings.setProperty("isolation.level", "read_committed"); // others see deliveries that were taken back
        settings.setProperty("auto.offset.reset", "earliest"); // a group that begins, begins with the first delivery
        settings.setProperty("enable.auto.commit", "false");
        settings.setProperty("allow.auto.create.topics", "false");

        Progress progress = new Progress(group);
        var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(consumer, main)));
        consumer.subscribe(topics, progress);
        try {
            do {
                var records = consumer.poll(Duration.ofSeconds(1));
                for (var record : records) {
                    GenericRecord delivery = decode(record.value());
                    if (progress.isNew(record, (Long) delivery.get("seq"))) {
                        handle(record, delivery);
                    }
                }
                System.out.flush(); // first what was done, then that it was done
                if (!records.isEmpty()) {
                    progress.save();
                    commit(consumer);
                }
            } while (!options.contains("--until-end") || !atEnd(consumer));
        } catch (WakeupException stopped) {
            // by Ctrl-C or SIGTERM, between two batches
        } catch (AuthenticationException | AuthorizationException refusal) {
            System.err.println("the bus refuses this user: " + refusal.getMessage() + "; ask for a new bundle");
            Runtime.getRuntime().halt(1);
        } finally {
            consumer.close();
        }
    }

    private static void commit(KafkaConsumer<byte[], byte[]> consumer) {
        try {
            consumer.commitSync();
        } catch (CommitFailedException | RebalanceInProgressException moved) {
            System.err.println("not committed: the lanes went to another member"); // what comes twice is known by its seq
        }
    }

    private static void stop(KafkaConsumer<byte[], byte[]> consumer, Thread main) {
        consumer.wakeup();
        try {
            main.join(Duration.ofSeconds(10).toMillis());
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
