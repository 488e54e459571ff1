// Four independent Parquet readers behind one interface, and one form for their values.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { dataDir, load, readJson, same } from './lib.mjs'

// ---- DuckDB ---------------------------------------------------------------------------

let connection

/** Runs one statement in a process-wide DuckDB; returns {names, types, columns}. */
export async function sql(statement, plain = plainDuckdb) {
  if (!connection) {
    const { DuckDBInstance } = await load('@duckdb/node-api')
    const instance = await DuckDBInstance.create(':memory:', { threads: '2' })
    connection = await instance.connect()
  }
  const result = await connection.runAndReadAll(statement)
  const columns = result.getColumns()
  return {
    names: result.columnNames(),
    types: result.columnTypes().map(String),
    columns: result.columnNames().map((_, i) => (columns[i] ?? []).map(plain))
  }
}

export const quoted = text => `'${text.replaceAll("'", "''")}'`

/** Timestamps and times become nanoseconds, dates days, decimals integers, bytes Uint8Array. */
function plainDuckdb(value) {
  if (value === null || typeof value !== 'object') return value
  if (value.items) return value.items.map(plainDuckdb)
  if (value.entries) {
    return Array.isArray(value.entries)
      ? value.entries.map(({ key, value }) => [plainDuckdb(key), plainDuckdb(value)])
      : mapValues(value.entries, plainDuckdb)
  }
  if (value.months !== undefined) {
    return [value.months, value.days, Number(value.micros) / 1000]
  }
  if (value.hugeint !== undefined) return uuidOfText(String(value))
  return value.bytes ?? value.days ?? value.nanos ?? value.value ??
    (value.micros === undefined ? value.millis * 1000000n : value.micros * 1000n)
}

async function readDuckdb(path) {
  const { names, columns } = await sql(`SELECT * FROM read_parquet(${quoted(path)})`)
  return Object.fromEntries(names.map((name, i) => [name, columns[i]]))
}

// ---- arrow-rs and polars, both through the Arrow IPC stream format ---------------------

async function readArrowRs(path) {
  const { readParquet } = await load('parquet-wasm')
  return fromIpc(readParquet(readFileSync(path)).intoIPCStream())
}

// polars cannot give binary columns to JavaScript; its Arrow stream holds them.
async function readPolars(path) {
  const polars = await load('nodejs-polars')
  return fromIpc(polars.default.readParquet(path).writeIPCStream())
}

async function fromIpc(stream) {
  const arrow = await load('apache-arrow')
  const table = arrow.tableFromIPC(stream)
  return Object.fromEntries(table.schema.fields.map(({ name }) =>
    [name, table.batches.filter(batch => batch.numRows).flatMap(batch =>
      plainArrow(arrow, batch.getChild(name).data[0]))]))
}

function plainArrow(arrow, data) {
  const value = valueOfArrow(arrow, data)
  return Array.from({ length: data.length }, (_, i) => data.getValid(i) ? value(i) : null)
}

const nanosOfUnit = [1000000000n, 1000000n, 1000n, 1n]

/** A function that gives the value at an index. Numbers come from the arrays themselves, since
 * Arrow JS makes doubles of timestamps, which loses nanoseconds. */
function valueOfArrow(arrow, data) {
  const { type, values, children } = data
  const { DataType } = arrow
  if (DataType.isList(type) || DataType.isLargeList(type) || DataType.isMap(type)) {
    const items = plainArrow(arrow, children[0]), at = data.valueOffsets
    const list = i => items.slice(Number(at[i]), Number(at[i + 1]))
    return DataType.isMap(type) ? i => list(i).map(Object.values) : list
  }
  if (DataType.isStruct(type)) {
    const members = children.map(child => plainArrow(arrow, child))
    return i => Object.fromEntries(type.children.map(({ name }, k) => [name, members[k][i]]))
  }
  if (DataType.isTimestamp(type) || DataType.isTime(type)) {
    return i => BigInt(values[i]) * nanosOfUnit[type.unit]
  }
  if (DataType.isDate(type)) return i => values[i]
  if (DataType.isDecimal(type)) {
    const words = type.bitWidth / 32
    return i => signedOfWords(values.subarray(i * words, (i + 1) * words))
  }
  if (DataType.isInterval(type)) return i => [0, values[2 * i], values[2 * i + 1]] // no months
  const vector = new arrow.Vector([data])
  return i => vector.get(i)
}

function signedOfWords(words) {
  const bits = words.reduceRight((high, word) => high << 32n | BigInt(word), 0n)
  return BigInt.asIntN(words.length * 32, bits)
}

// ---- hyparquet ------------------------------------------------------------------------

const hyparquetParsers = {
  timestampFromMilliseconds: millis => millis * 1000000n,
  timestampFromMicroseconds: micros => micros * 1000n,
  timestampFromNanoseconds: nanos => nanos,
  dateFromDays: days => days,
  jsonFromBytes: bytes => new TextDecoder().decode(bytes),
  uuidFromBytes: uuid => ({ uuid })
}

async function readHyparquet(path) {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema } =
    await load('hyparquet')
  const { compressors } = await load('hyparquet-compressors')
  const file = await asyncBufferFromFile(path)
  const metadata = await parquetMetadataAsync(file)
  const rows = await parquetReadObjects({
    file, metadata, compressors, parsers: hyparquetParsers, utf8: false
  })
  return Object.fromEntries(parquetSchema(metadata).children.map(({ element: { name } }) =>
    [name, rows.map(row => row[name])]))
}

// ---- The interface --------------------------------------------------------------------

/** Each read(path) gives {column name: [value of row 0, ...]}. */
export const readers = [
  { name: 'DuckDB', read: readDuckdb },
  { name: 'polars', read: readPolars },
  { name: 'arrow-rs', read: readArrowRs },
  { name: 'hyparquet', read: readHyparquet }
]

/** Reads a file of make_models and compares every value of every column with what went in. */
export async function expectFile(reader, name) {
  const expected = readJson(join(dataDir, `${name}.json`))
  const actual = await reader.read(join(dataDir, `${name}.parquet`))
  same(Object.keys(actual), Object.keys(expected), 'the list of columns')
  for (const [column, { type, values }] of Object.entries(expected)) {
    same(actual[column].map(value => canonical(type, value)), values, column)
  }
}

function mapValues(object, fn) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, fn(value)]))
}

function uuidOfText(text) {
  return { uuid: Buffer.from(text.replaceAll('-', ''), 'hex') }
}

const view = new DataView(new ArrayBuffer(8))

function hexOfF32(value) {
  view.setFloat32(0, value)
  if (!Object.is(view.getFloat32(0), value)) throw new Error(`${value} is not a float32`)
  return view.getUint32(0).toString(16).padStart(8, '0')
}

function hexOfF64(value) {
  view.setFloat64(0, value)
  return view.getBigUint64(0).toString(16).padStart(16, '0')
}

export const hexOfBytes = bytes =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')

function f16ToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}

function mustBe(type, value) {
  if (typeof value !== type) throw new Error(`${value} (${typeof value}) where a ${type} must be`)
  return value
}

/** "-1.500000000": seconds, rounded down, and nanoseconds. */
function textOfNanos(nanos) {
  const fraction = BigInt.asUintN(64, (nanos % 1000000000n + 1000000000n) % 1000000000n)
  return `${(nanos - fraction) / 1000000000n}.${String(fraction).padStart(9, '0')}`
}

// A reader that does not know FLOAT16 shows its bytes: the same value, so accepted.
const scalars = {
  string: value => mustBe('string', value),
  bool: value => `${mustBe('boolean', value)}`,
  int: value => `${BigInt(value)}`,
  date: value => `${BigInt(value)}`,
  time: value => `${mustBe('bigint', value)}`,
  timestamp: value => textOfNanos(mustBe('bigint', value)),
  decimal: value => `${mustBe('bigint', value)}`,
  interval: value => value.join(' '),
  null: value => { throw new Error(`${value} where there is nothing`) },
  f16: value => hexOfF32(value.byteLength ? f16ToNumber(value[0] | value[1] << 8) : value),
  f32: value => hexOfF32(mustBe('number', value)),
  f64: value => hexOfF64(mustBe('number', value)),
  bytes: hexOfBytes,
  uuid: ({ uuid }) => hexOfBytes(uuid)
}

/**
 * The value as strings, arrays and nulls, so that equal values of two readers are equal trees.
 * Floats become the hexadecimal digits of their bits (all NaN the same), integers decimal,
 * bytes hexadecimal. `type` is a key of `scalars`, {list: type}, {struct: {field: type}} or
 * {map: [key type, value type]}.
 */
export function canonical(type, value) {
  if (value === null || value === undefined) return null
  if (type.list) return Array.from(value, item => canonical(type.list, item))
  if (type.map) {
    const entries = Array.isArray(value) ? value : Object.entries(value)
    return entries.map(entry =>
      Object.values(entry).map((item, i) => canonical(type.map[i], item)))
  }
  if (type.struct) {
    return Object.entries(type.struct).map(([name, field]) => canonical(field, value[name]))
  }
  return scalars[type](value)
}
