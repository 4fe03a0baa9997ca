// KafkaJS with its schema registry client: register, produce, consume, evolve, be refused. The task comes on stdin as JSON.
import fs from "node:fs";
import kafkajs from "kafkajs";
import registryClient from "@kafkajs/confluent-schema-registry";

const { Kafka, logLevel } = kafkajs;
const { SchemaRegistry, SchemaType, COMPATIBILITY } = registryClient;
const task = JSON.parse(fs.readFileSync(0, "utf8"));
const subject = `${task.topic}-value`;

const kafka = (who) =>
  new Kafka({
    brokers: task.bootstrap.split(","),
    logLevel: logLevel.ERROR,
    sasl: { mechanism: "scram-sha-512", username: task[who].name, password: task[who].password },
  });
const registry = (who) =>
  new SchemaRegistry({ host: task.url, auth: { username: task[who].name, password: task[who].password } });

const register = async (who, schema) =>
  (await registry(who).register({ type: SchemaType.AVRO, schema: JSON.stringify(schema) }, { subject })).id;

async function produce(schema, value) {
  const id = await register("writer", schema);
  const producer = kafka("writer").producer();
  await producer.connect();
  await producer.send({ topic: task.topic, messages: [{ value: await registry("writer").encode(id, value) }] });
  await producer.disconnect();
}

async function consume(count) {
  const consumer = kafka("reader").consumer({ groupId: task.group });
  const decoder = registry("reader");
  const read = [];
  await consumer.connect();
  await consumer.subscribe({ topics: [task.topic], fromBeginning: true });
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error("nothing more came")), 40_000).unref();
    consumer.run({
      eachMessage: async ({ message }) => {
        try {
          read.push({ ...(await decoder.decode(message.value)) });
          if (read.length === count) resolve();
        } catch (error) {
          reject(error);
        }
      },
    });
  });
  await consumer.disconnect();
  return read;
}

async function refusal(who, schema) {
  try {
    await register(who, schema);
    return 200;
  } catch (error) {
    if (error.status) return error.status;
    if (/incompatible/i.test(error.message)) return 409;
    throw error;
  }
}

// What the client has no call for is asked plainly.
async function ask(who, path, body) {
  const login = Buffer.from(`${task[who].name}:${task[who].password}`).toString("base64");
  const answer = await fetch(task.url + path, {
    method: body ? "POST" : "GET",
    headers: { Authorization: `Basic ${login}`, "Content-Type": "application/vnd.schemaregistry.v1+json" },
    body: body && JSON.stringify(body),
  });
  return answer.json();
}

const [first, second, third] = task.schemas;
await produce(first, { name: "Nguyễn" });
await produce(second, { name: "Trần", year: 1990 });
const read = await consume(2);
const compatible = [];
for (const schema of [second, third]) {
  const told = await ask("writer", `/compatibility/subjects/${subject}/versions/latest`, { schema: JSON.stringify(schema) });
  compatible.push(told.is_compatible);
}
console.log(
  JSON.stringify({
    client: COMPATIBILITY ? "4.1.0" : "",
    read,
    versions: await ask("reader", `/subjects/${subject}/versions`),
    subjects: await ask("reader", "/subjects"),
    compatible,
    refused: await refusal("writer", third),
    forbidden: await refusal("reader", { ...third, name: "Other" }),
  }),
);
