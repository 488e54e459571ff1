// Every logical type of the writer, PLAIN and with a dictionary: values, and what a reader
// takes the type for.
import { readFileSync } from 'node:fs'
import { expectChecksums } from './checks.mjs'
import { aq, load, same, test } from './lib.mjs'
import { filesOf, publish, readAll, rowOf } from './matrix.mjs'
import { expectMetadata, expectStatistics } from './pages.mjs'
import { canonical, hexOfBytes, quoted, sql } from './readers.mjs'

/** ConvertedType for old readers, and the types of DuckDB and of arrow-rs. */
const types = {
  date: ['DATE', 'DATE', 'Date32<DAY>'],
  time_ms: ['TIME_MILLIS', 'TIME WITH TIME ZONE', 'Time32<MILLISECOND>'],
  time_us: ['TIME_MICROS', 'TIME WITH TIME ZONE', 'Time64<MICROSECOND>'],
  time_ns: [undefined, 'TIME WITH TIME ZONE', 'Time64<NANOSECOND>'],
  timestamp_ms: ['TIMESTAMP_MILLIS', 'TIMESTAMP WITH TIME ZONE', 'Timestamp<MILLISECOND, UTC>'],
  timestamp_us: ['TIMESTAMP_MICROS', 'TIMESTAMP WITH TIME ZONE', 'Timestamp<MICROSECOND, UTC>'],
  timestamp_ns: [undefined, 'TIMESTAMP WITH TIME ZONE', 'Timestamp<NANOSECOND, UTC>'],
  local_timestamp_us: [undefined, 'TIMESTAMP', 'Timestamp<MICROSECOND>'],
  local_timestamp_ns: [undefined, 'TIMESTAMP_NS', 'Timestamp<NANOSECOND>'],
  decimal_i32: ['DECIMAL', 'DECIMAL(9,2)', 'Decimal[9e+2]'],
  decimal_i64: ['DECIMAL', 'DECIMAL(18,5)', 'Decimal[18e+5]'],
  decimal_fixed: ['DECIMAL', 'DECIMAL(38,10)', 'Decimal[38e+10]'],
  decimal_bytes: ['DECIMAL', 'DECIMAL(20,3)', 'Decimal[20e+3]'],
  uuid: [undefined, 'UUID', 'FixedSizeBinary[16]'],
  enum: ['ENUM', 'VARCHAR', 'Binary'],
  json: ['JSON', 'VARCHAR', 'Utf8'],
  bson: ['BSON', undefined, 'Binary'],
  interval: ['INTERVAL', 'INTERVAL', 'Interval<DAY_TIME>'],
  null: [undefined, 'INTEGER', 'Null']
}

const asBytes = { note: 'as bytes', type: 'bytes', value: text => hexOfBytes(Buffer.from(text)) }
const uuidAsBytes = { note: 'as bytes', type: 'bytes', value: hex => hex }
const asNumber = unit => ({ note: 'as a number', type: 'int', value: nanos => `${BigInt(nanos) / unit}` })
const asDouble = scale =>
  ({ note: 'as a double', type: 'f64', value: text => canonical('f64', Number(text) * 10 ** -scale) })

function instantInMicros(text) {
  const [seconds, fraction] = text.split('.').map(BigInt)
  return canonical('timestamp', (seconds * 1000000000n + fraction) / 1000n * 1000n)
}

/** What a reader refuses, or shows as something else. */
const exceptions = {
  DuckDB: {
    bson: { reason: /Unsupported converted type \(20\)/ },
    time_ns: { note: 'in microseconds', type: 'time', value: nanos => `${BigInt(nanos) / 1000n * 1000n}` },
    timestamp_ns: { note: 'in microseconds', type: 'timestamp', value: instantInMicros }
  },
  polars: {
    interval: { reason: /Arrow Field dtype does not match/ },
    enum: asBytes, json: asBytes, uuid: uuidAsBytes
  },
  hyparquet: {
    bson: { reason: /parquet bson not supported/ },
    interval: { reason: /parquet interval not supported/ },
    enum: asBytes,
    time_ms: asNumber(1000000n), time_us: asNumber(1000n),
    decimal_i32: asDouble(2), decimal_i64: asDouble(5),
    decimal_fixed: asDouble(10), decimal_bytes: asDouble(3)
  },
  'arrow-rs': {
    interval: { note: 'without months', type: 'interval', value: text => text.replace(/^\d+/, '0') },
    enum: asBytes, uuid: uuidAsBytes
  }
}

const files = filesOf('logical'), nested = filesOf('nested')
await readAll(nested, reader => /polars|hyparquet/.test(reader) && {
  note: 'null for an empty repeated field', reason: /^repeated\[0\] is null, expected \[\]/
})
await readAll(files, (reader, file) => exceptions[reader]?.[file.kind])
await test('aq verifies them', () => aq(['verify', ...[...files, ...nested].map(file => file.path)]))
for (const file of files) {
  await test(`page checksums of ${file.name}`, () => expectChecksums(file.path))
  await test(`metadata of ${file.name}`, () => expectMetadata(file))
  await test(`statistics of ${file.name}`, () => expectStatistics(file))
  await test(`the types in ${file.name}`, () => expectTypes(file))
}

for (const file of nested) {
  await test(`page checksums of ${file.name}`, () => expectChecksums(file.path))
}

async function expectTypes({ path, kind }) {
  const [converted, duckdb, arrow] = types[kind]
  const { asyncBufferFromFile, parquetMetadataAsync } = await load('hyparquet')
  const { schema } = await parquetMetadataAsync(await asyncBufferFromFile(path))
  for (const leaf of schema.filter(element => element.type)) {
    same(leaf.converted_type, converted, leaf.name)
  }
  if (duckdb) {
    const { types } = await sql(`SELECT * FROM ${quoted(path)} LIMIT 0`)
    same(types[0], duckdb, 'DuckDB')
  }
  const { readParquet } = await load('parquet-wasm')
  const { tableFromIPC } = await load('apache-arrow')
  const table = tableFromIPC(readParquet(readFileSync(path)).intoIPCStream())
  same(String(table.schema.fields[0].type), arrow, 'arrow-rs')
}

const kinds = [...new Set(files.map(file => file.kind))]
const only = read => `${read.map(file => `${file.encoding} ${file.version}`)} only`
await publish('logical types', ['type'], [
  ...kinds.map(kind => rowOf([kind], files.filter(file => file.kind === kind), only)),
  rowOf(['list map struct repeated'], nested, only)
])
