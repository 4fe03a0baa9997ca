#!/usr/bin/env node
// Reads this agency's topics: committed deliveries, each handled once, in the order of each lane. Put your work into `handle`.
//
// README.md says how to run it. Needs kafkajs, lz4js and avsc (package.json).
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');

const avro = require('avsc');
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require('kafkajs');
const lz4 = require('lz4js');

// Your work. `op` c, r, u: `data` is the row as it is now. d, w: the row is gone, or no longer yours to see: delete it.
// Hold rows by topic, message key and row_key together. What this does must be durable when its promise resolves: best write it,
// and the seq of its topic and lane, in one transaction of your own database.
async function handle(topic, lane, offset, key, delivery) {
  process.stdout.write(`${JSON.stringify({ topic, lane, offset, key, delivery }, readable)}\n`);
}

function readable(_, value) {
  if (value?.type === 'Buffer') return Buffer.from(value.data).toString('hex'); // as a Buffer gives itself to JSON
  return typeof value === 'bigint' ? (Number.isSafeInteger(Number(value)) ? Number(value) : value.toString()) : value;
}

// Avro's long has 64 bits, of which a number of JavaScript holds 53.
const long = avro.types.LongType.__with({
  fromBuffer: (buffer) => buffer.readBigInt64LE(),
  toBuffer: (value) => { const buffer = Buffer.alloc(8); buffer.writeBigInt64LE(value); return buffer; },
  fromJSON: BigInt,
  toJSON: String,
  isValid: (value) => typeof value === 'bigint',
  compare: (a, b) => (a < b ? -1 : Number(a > b)),
});

CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async () => { throw new Error('this client only reads'); },
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});

const schemas = new Map();

// A value is a zero byte, the schema's id in four bytes, Avro.
function decode(value) {
  const id = value.readUInt32BE(1);
  if (!schemas.has(id)) {
    const file = path.join(__dirname, 'schemas', `${id}.avsc`);
    if (value[0] !== 0 || !fs.existsSync(file)) {
      fail(`schema ${id} is not in ${path.dirname(file)}: an agreement or a schema has changed; ask for a new bundle`);
    }
    const schema = JSON.parse(fs.readFileSync(file, 'utf8'));
    schemas.set(id, avro.Type.forSchema(schema, { registry: { long }, wrapUnions: 'auto' }));
  }
  return schemas.get(id).fromBuffer(value.subarray(5));
}

// The last seq of each topic and lane that was handled. They count from 1 without gaps: a lower one is a repetition.
class Progress {
  constructor(group) {
    this.file = path.join(__dirname, `progress.${group}.json`);
    this.last = {};
    this.assigned();
  }

  // Who had the lanes until now has saved what came. From there on each must go on without a gap, over a restart too.
  assigned() {
    const saved = fs.existsSync(this.file) ? JSON.parse(fs.readFileSync(this.file, 'utf8')) : {};
    for (const [place, seq] of Object.entries(saved)) this.last[place] = Math.max(seq, this.last[place] ?? 0);
    this.due = {};
  }

  isNew(topic, lane, seq) {
    const place = `${topic} ${lane}`;
    const due = this.due[place] ?? (this.last[place] ?? 0) + 1;
    if (seq > due) process.stderr.write(`${topic} lane ${lane}: seq ${due} to ${seq - 1} did not come: see 'A gap' in README.md\n`);
    this.due[place] = Math.max(seq + 1, due);
    return seq > (this.last[place] ?? 0);
  }

  done(topic, lane, seq) { this.last[`${topic} ${lane}`] = seq; }

  save() {
    fs.writeFileSync(`${this.file}.part`, JSON.stringify(this.last));
    fs.renameSync(`${this.file}.part`, this.file);
  }
}

function fail(reason) {
  process.stderr.write(`${reason}\n`);
  process.exit(1);
}

async function main() {
  process.umask(0o077); // what this writes is nobody else's business
  const { values: options } = parseArgs({ options: { group: { type: 'string' }, 'until-idle': { type: 'string' } } });
  const client = JSON.parse(fs.readFileSync(path.join(__dirname, 'client.json'), 'utf8'));
  const groupId = options.group ? `${client.group}.${options.group}` : client.group;
  const ca = client.ca ? [fs.readFileSync(path.join(__dirname, client.ca))] : undefined;
  const kafka = new Kafka({
    brokers: client.bootstrap,
    ssl: client.tls ? { ca } : false,
    sasl: { mechanism: client.mechanism.toLowerCase(), username: client.username, password: client.password },
    logLevel: logLevel.ERROR,
  });
  const progress = new Progress(groupId);
  const consumer = kafka.consumer({ groupId, readUncommitted: false }); // others see deliveries that were taken back
  let heard = Date.now();
  consumer.on(consumer.events.GROUP_JOIN, () => { heard = Date.now(); progress.assigned(); });
  consumer.on(consumer.events.CRASH, ({ payload }) => { if (!payload.restart) fail(`cannot read: ${payload.error.message}`); });

  async function eachBatch({ batch, heartbeat, isRunning, isStale }) {
    const lane = batch.partition;
    let next = null;
    for (const message of batch.messages) {
      if (!isRunning() || isStale()) return;
      const delivery = decode(message.value);
      const seq = Number(delivery.seq);
      if (progress.isNew(batch.topic, lane, seq)) {
        await handle(batch.topic, lane, Number(message.offset), message.key, delivery);
        progress.done(batch.topic, lane, seq);
      }
      next = (BigInt(message.offset) + 1n).toString();
      heard = Date.now();
      await heartbeat();
    }
    progress.save(); // first what was done, then that it was done
    if (next !== null) await consumer.commitOffsets([{ topic: batch.topic, partition: lane, offset: next }]);
  }

  await consumer.connect();
  await consumer.subscribe({ topics: client.topics, fromBeginning: true }); // a group that begins, begins with the first delivery
  await consumer.run({ autoCommit: false, eachBatch });

  let over = () => {};
  const stopped = new Promise((resolve) => { over = resolve; });
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, over);
  const idle = Number(options['until-idle'] ?? 0) * 1000;
  const watch = idle ? setInterval(() => { if (Date.now() - heard > idle) over(); }, 200) : undefined;
  await stopped;
  clearInterval(watch);
  await consumer.disconnect();
}

main().catch((error) => fail(error.message));
