// Confluent's Java client, as Apache Flink ships it: register, produce, consume, evolve, be refused. The task comes on stdin as JSON.

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.avro.AvroSchema;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.CachedSchemaRegistryClient;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.rest.exceptions.RestClientException;
import org.apache.flink.avro.shaded.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.avro.shaded.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.avro.shaded.org.apache.avro.Schema;
import org.apache.flink.avro.shaded.org.apache.avro.generic.GenericData;
import org.apache.flink.avro.shaded.org.apache.avro.generic.GenericDatumReader;
import org.apache.flink.avro.shaded.org.apache.avro.generic.GenericDatumWriter;
import org.apache.flink.avro.shaded.org.apache.avro.generic.GenericRecord;
import org.apache.flink.avro.shaded.org.apache.avro.io.DecoderFactory;
import org.apache.flink.avro.shaded.org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Client {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static JsonNode task;
    private static String topic;

    public static void main(String[] arguments) throws Exception {
        task = JSON.readTree(System.in);
        topic = task.get("topic").asText();
        String subject = topic + "-value";
        AvroSchema first = schema(0), second = schema(1), third = schema(2);
        produce(first, Map.of("name", "Nguyễn"));
        produce(second, Map.of("name", "Trần", "year", 1990));
        CachedSchemaRegistryClient writer = registry("writer");
        Map<String, Object> saw = new LinkedHashMap<>();
        saw.put("client", CachedSchemaRegistryClient.class.getName());
        saw.put("read", consume(2));
        saw.put("versions", writer.getAllVersions(subject));
        saw.put("subjects", registry("reader").getAllSubjects());
        saw.put("compatible", List.of(writer.testCompatibility(subject, second), writer.testCompatibility(subject, third)));
        saw.put("refused", refusal("writer", third));
        saw.put("forbidden", refusal("reader", new AvroSchema(third.canonicalString().replace("\"Person\"", "\"Other\""))));
        System.out.write(JSON.writeValueAsBytes(saw));
        System.out.println();
    }

    private static AvroSchema schema(int number) {
        return new AvroSchema(task.get("schemas").get(number).toString());
    }

    private static CachedSchemaRegistryClient registry(String who) {
        String login = task.get(who).get("name").asText() + ":" + task.get(who).get("password").asText();
        Map<String, String> settings = Map.of("basic.auth.credentials.source", "USER_INFO", "basic.auth.user.info", login);
        return new CachedSchemaRegistryClient(List.of(task.get("url").asText()), 100, settings);
    }

    private static Properties kafka(String who) {
        JsonNode user = task.get(who);
        Properties found = new Properties();
        found.put("bootstrap.servers", task.get("bootstrap").asText());
        found.put("security.protocol", "SASL_PLAINTEXT");
        found.put("sasl.mechanism", "SCRAM-SHA-512");
        found.put("sasl.jaas.config", String.format(
            "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"%s\" password=\"%s\";",
            user.get("name").asText(), user.get("password").asText()));
        return found;
    }

    private static void produce(AvroSchema schema, Map<String, Object> values) throws Exception {
        int id = registry("writer").register(topic + "-value", schema);
        GenericRecord record = new GenericData.Record(schema.rawSchema());
        values.forEach(record::put);
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        bytes.write(ByteBuffer.allocate(5).put((byte) 0).putInt(id).array());
        var encoder = EncoderFactory.get().binaryEncoder(bytes, null);
        new GenericDatumWriter<GenericRecord>(schema.rawSchema()).write(record, encoder);
        encoder.flush();
        try (var producer = new KafkaProducer<>(kafka("writer"), new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.send(new ProducerRecord<>(topic, bytes.toByteArray())).get();
        }
    }

    private static List<Map<String, Object>> consume(int count) throws Exception {
        Properties settings = kafka("reader");
        settings.put("group.id", task.get("group").asText());
        settings.put("auto.offset.reset", "earliest");
        CachedSchemaRegistryClient registry = registry("reader");
        List<Map<String, Object>> read = new ArrayList<>();
        long deadline = System.nanoTime() + Duration.ofSeconds(40).toNanos();
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(topic));
            while (read.size() < count && System.nanoTime() < deadline) {
                for (ConsumerRecord<byte[], byte[]> each : consumer.poll(Duration.ofMillis(200))) {
                    read.add(decode(registry, each.value()));
                }
            }
        }
        return read;
    }

    private static Map<String, Object> decode(CachedSchemaRegistryClient registry, byte[] value) throws Exception {
        Schema schema = ((AvroSchema) registry.getSchemaById(ByteBuffer.wrap(value, 1, 4).getInt())).rawSchema();
        var decoder = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null);
        GenericRecord record = new GenericDatumReader<GenericRecord>(schema).read(null, decoder);
        Map<String, Object> found = new LinkedHashMap<>();
        for (Schema.Field field : schema.getFields()) {
            Object one = record.get(field.pos());
            found.put(field.name(), one instanceof CharSequence ? one.toString() : one);
        }
        return found;
    }

    private static int refusal(String who, AvroSchema schema) throws Exception {
        try {
            registry(who).register(topic + "-value", schema);
            return 200;
        } catch (RestClientException error) {
            return error.getStatus();
        }
    }
}
