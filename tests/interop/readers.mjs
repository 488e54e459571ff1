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

function plainDuckdb(value) {
  if (value === null || typeof value !== 'object') return value
  if (value.items) return value.items.map(plainDuckdb)
  if (value.entries) return mapValues(value.entries, plainDuckdb)
  return value.bytes ?? value.micros ?? nanosToMicros(value.nanos)
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
  const { tableFromIPC } = await load('apache-arrow')
  const table = tableFromIPC(stream)
  return Object.fromEntries(table.schema.fields.map(({ name, type }) =>
    [name, [...table.getChild(name)].map(value => plainArrow(value, type))]))
}

function plainArrow(value, type) {
  if (value === null) return null
  const { children, constructor: { name } } = type
  if (name === 'List' || name === 'LargeList') {
    return [...value].map(item => plainArrow(item, children[0].type))
  }
  if (name === 'Struct') {
    return Object.fromEntries(children.map(field =>
      [field.name, plainArrow(value[field.name], field.type)]))
  }
  // Arrow JS gives timestamps in (fractional) milliseconds.
  if (name.startsWith('Timestamp')) return BigInt(Math.round(value * 1000))
  return value
}

// ---- hyparquet ------------------------------------------------------------------------

const hyparquetParsers = {
  timestampFromNanoseconds: nanosToMicros
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

function nanosToMicros(nanos) {
  return nanos === undefined ? undefined : nanos / 1000n
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

// A reader that does not know a logical type shows its bytes: the same value, so accepted.
const scalars = {
  string: value => mustBe('string', value),
  bool: value => `${mustBe('boolean', value)}`,
  int: value => `${BigInt(value)}`,
  f16: value => hexOfF32(value.byteLength ? f16ToNumber(value[0] | value[1] << 8) : value),
  f32: value => hexOfF32(mustBe('number', value)),
  f64: value => hexOfF64(mustBe('number', value)),
  bytes: hexOfBytes
}

/**
 * The value as strings, arrays and nulls, so that equal values of two readers are equal trees.
 * Floats become the hexadecimal digits of their bits (all NaN the same), integers decimal,
 * bytes hexadecimal. `type` is a key of `scalars`, {list: type} or {struct: {field: type}}.
 */
export function canonical(type, value) {
  if (value === null || value === undefined) return null
  if (type.list) return Array.from(value, item => canonical(type.list, item))
  if (type.struct) {
    return Object.entries(type.struct).map(([name, field]) => canonical(field, value[name]))
  }
  return scalars[type](value)
}
