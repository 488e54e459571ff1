// The rows of any Parquet file as `aq cat`, DuckDB and hyparquet read them, in one form.
import { aq, load } from './lib.mjs'
import { canonical, quoted, sql } from './readers.mjs'

// ---- Types: from hyparquet's schema, by the rules of LogicalTypes.md ---------------------

/** {name: type} of the top-level columns. */
async function columnTypes(metadata) {
  const { parquetSchema } = await load('hyparquet')
  return Object.fromEntries(parquetSchema(metadata).children.map(node =>
    [node.element.name, fieldType(node)]))
}

const isRepeated = node => node.element.repetition_type === 'REPEATED'
const annotation = ({ element }) => element.logical_type?.type ?? element.converted_type

function fieldType(node) {
  return isRepeated(node) ? { list: elementType(node) } : elementType(node)
}

function elementType(node) {
  const { children, element } = node
  if (children.length === 0) return leafType(element)
  const [inner] = children
  if (children.length === 1 && isRepeated(inner)) {
    if (annotation(node) === 'LIST') {
      return { list: isElement(inner, element.name) ? elementType(inner) : fieldType(inner.children[0]) }
    }
    if (/^MAP/.test(annotation(node))) {
      const [key, value] = inner.children.map(fieldType)
      return { map: { key, value } }
    }
  }
  return { struct: Object.fromEntries(children.map(child => [child.element.name, fieldType(child)])) }
}

function isElement(repeated, listName) {
  return repeated.children.length !== 1 || isRepeated(repeated.children[0]) ||
    ['array', `${listName}_tuple`].includes(repeated.element.name)
}

const plainScalars = {
  BOOLEAN: 'bool', INT32: 'int', INT64: 'int', FLOAT: 'f32', DOUBLE: 'f64',
  BYTE_ARRAY: 'bytes', FIXED_LEN_BYTE_ARRAY: 'bytes'
}
const nanosOf = { MILLIS: 1000000n, MICROS: 1000n, NANOS: 1n }

/** {scalar, a type of canonical(); is, what the value means; unit or scale or unsigned bits}. */
function leafType({ type, converted_type: converted = '', logical_type: logical, scale = 0 }) {
  const means = logical?.type ?? converted
  const unit = nanosOf[logical?.unit ?? converted.split('_')[1]]
  if (type === 'INT96') return { scalar: 'int', is: 'int96' }
  if (means === 'DECIMAL') return { scalar: 'int', is: 'decimal', scale: logical?.scale ?? scale }
  if (means === 'DATE') return { scalar: 'int', is: 'date' }
  if (/^TIME(_MILLIS|_MICROS)?$/.test(means)) return { scalar: 'int', is: 'time', unit }
  if (/^TIMESTAMP/.test(means)) return { scalar: 'int', is: 'timestamp', unit }
  if (means === 'FLOAT16') return { scalar: 'f16' }
  if (['UTF8', 'STRING', 'ENUM', 'JSON'].includes(means)) return { scalar: 'string' }
  const unsigned = /^UINT_/.test(converted) || logical?.isSigned === false
  return { scalar: plainScalars[type], unsignedBits: unsigned ? (type === 'INT32' ? 32 : 64) : 0 }
}

/** A value as a tree of strings; leaf(type, value) makes of a reader's value what canonical()
 * takes. Maps are sorted by key, since hyparquet's are JavaScript objects. */
function tree(type, value, leaf) {
  if (value === null || value === undefined) return null
  if (type.list) return Array.from(value, item => tree(type.list, item, leaf))
  if (type.struct) {
    return Object.entries(type.struct).map(([name, field]) => tree(field, value[name], leaf))
  }
  if (!type.map) return scalarText(type.scalar, leaf(type, value))
  const entries = Array.isArray(value) ? value.map(entry => [entry.key, entry.value]) : Object.entries(value)
  return entries
    .map(([key, item]) => [tree(type.map.key, key, leaf), tree(type.map.value ?? {}, item, leaf)])
    .sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
}

// `aq cat` does not tell one NaN from another.
function scalarText(scalar, value) {
  return canonical(scalar, typeof value === 'number' && isNaN(value) ? NaN : value)
}

// ---- hyparquet ---------------------------------------------------------------------------

const decode = bytes => new TextDecoder().decode(bytes)

const parsers = {
  timestampFromMilliseconds: millis => millis * 1000000n,
  timestampFromMicroseconds: micros => micros * 1000n,
  timestampFromNanoseconds: nanos => nanos,
  dateFromDays: days => days,
  jsonFromBytes: decode,
  uuidFromBytes: bytes => bytes,
  geometryFromBytes: bytes => bytes,
  geographyFromBytes: bytes => bytes
}

function hyparquetLeaf(type, value) {
  if (type.is === 'decimal') return BigInt(Math.round(value * 10 ** type.scale)) // a double there
  if (type.is === 'time') return BigInt(value) * type.unit
  return type.scalar === 'string' && typeof value !== 'string' ? decode(value) : value
}

async function hyparquetRows(path, types) {
  const { asyncBufferFromFile, parquetReadObjects } = await load('hyparquet')
  const { compressors } = await load('hyparquet-compressors')
  const file = await asyncBufferFromFile(path)
  const rows = await parquetReadObjects({ file, compressors, parsers, utf8: false })
  return rows.map(row => tree({ struct: types }, row, hyparquetLeaf))
}

// ---- DuckDB ------------------------------------------------------------------------------

function duckdbLeaf(type, value) {
  if (type.is === 'decimal') {
    if (value.scale !== type.scale) throw new Error(`DECIMAL scale ${value.scale}, not ${type.scale}`)
    return value.value
  }
  if (type.is === 'date') return value.days
  if (type.is) return value.nanos ?? (value.micros ?? value.millis * 1000n) * 1000n
  if (type.scalar === 'bytes') return value.bytes ?? Buffer.from(value)
  return type.scalar === 'string' && value.bytes ? decode(value.bytes) : value
}

function duckdbPlain(value) {
  if (value === null || typeof value !== 'object') return value
  if (value.items) return value.items.map(duckdbPlain)
  if (Array.isArray(value.entries)) {
    return value.entries.map(entry => ({ key: duckdbPlain(entry.key), value: duckdbPlain(entry.value) }))
  }
  if (!value.entries) return value
  return Object.fromEntries(Object.entries(value.entries).map(([name, item]) => [name, duckdbPlain(item)]))
}

async function duckdbRows(path, types) {
  const { columns } = await sql(`SELECT * FROM read_parquet(${quoted(path)})`, duckdbPlain)
  const typeList = Object.values(types)
  return Array.from(columns[0], (_, row) =>
    typeList.map((type, i) => tree(type, columns[i][row], duckdbLeaf)))
}

// ---- aq cat --raw, and aq cat -------------------------------------------------------------

/** JSON lines, with numbers as {number: text}, since many are no doubles. */
function parseLines(lines) {
  const tokens = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:e[-+]\d+)?/g
  return lines.split('\n').slice(0, -1).map(line => JSON.parse(line.replace(tokens, token =>
    token.startsWith('"') ? token : `{"number":"${token}"}`)))
}

function bytesOf(hex) {
  if (!/^0x([0-9a-f]{2})*$/.test(hex)) throw new Error(`${hex} is not hexadecimal`)
  return Buffer.from(hex.slice(2), 'hex')
}

const bigEndian = bytes => BigInt.asIntN(8 * bytes.length, BigInt(`0x0${Buffer.from(bytes).toString('hex')}`))

function numberOf(type, value) {
  const number = Number(value.number ?? value) // "NaN", "Infinity"
  return type.scalar === 'f32' ? Math.fround(number) : number
}

function rawLeaf(type, value) {
  const { scalar } = type
  if (scalar === 'bool') return value
  if (scalar === 'f32' || scalar === 'f64') return numberOf(type, value)
  if (value.number === undefined) {
    const bytes = bytesOf(value)
    if (scalar === 'string') return decode(bytes)
    if (type.is === 'decimal') return bigEndian(bytes)
    if (type.is === 'int96') {
      return bytes.readBigInt64LE() + BigInt(bytes.readInt32LE(8) - 2440588) * nanosPerDay
    }
    return bytes // of FLOAT16 too: canonical() takes its bytes
  }
  const int = BigInt(value.number)
  return type.unsignedBits ? BigInt.asUintN(type.unsignedBits, int) : int * (type.unit ?? 1n)
}

const nanosPerDay = 86400000000000n

/** Days since 1970-01-01. Date does not reach the year 290000, so whole 400 years are taken off. */
function daysOf(year, month, day) {
  const eras = Math.floor((year - 2000) / 400)
  return BigInt(eras * 146097 + Date.UTC(year - eras * 400, month - 1, day) / 86400000)
}

/** "2024-01-31", "12:34:56.789" or both with a T between, as nanoseconds. */
function nanosOfText(text) {
  const [, year, month, day] = /^([-+]?\d{4,})-(\d\d)-(\d\d)/.exec(text) ?? []
  const [, h, m, s, fraction] = /(\d\d):(\d\d):(\d\d)\.(\d{3,9})Z?$/.exec(text) ?? [0, 0, 0, 0, '0']
  const days = year === undefined ? 0n : daysOf(Number(year), Number(month), Number(day))
  const seconds = BigInt(h * 3600 + m * 60 + Number(s))
  return days * nanosPerDay + seconds * 1000000000n + BigInt(fraction.padEnd(9, '0'))
}

function textLeaf(type, value) {
  if (type.is === 'date') return nanosOfText(value) / nanosPerDay
  if (type.is === 'decimal') {
    const [, whole, fraction = ''] = /^(-?\d+)(?:\.(\d+))?$/.exec(value.number)
    if (fraction.length !== type.scale) throw new Error(`${value.number} has not ${type.scale} decimals`)
    return BigInt(whole + fraction)
  }
  if (type.is) return nanosOfText(value)
  if (type.scalar === 'bytes') return /^0x/.test(value) ? bytesOf(value) : Buffer.from(value)
  if (/^f/.test(type.scalar)) return numberOf({ scalar: type.scalar === 'f64' ? 'f64' : 'f32' }, value)
  return value.number ?? value
}

function aqRows(path, types, options, leaf) {
  return parseLines(aq(['cat', path, ...options])).map(row => tree({ struct: types }, row, leaf))
}

// ---- The interface -----------------------------------------------------------------------

/** Readers by name; read(path, types) gives rows, equal ones for equal files. */
export const rowReaders = {
  'aq cat --raw': (path, types) => aqRows(path, types, ['--raw'], rawLeaf),
  'aq cat': (path, types) => aqRows(path, types, [], textLeaf),
  hyparquet: hyparquetRows,
  DuckDB: duckdbRows
}

export async function typesOf(path) {
  const { asyncBufferFromFile, parquetMetadataAsync } = await load('hyparquet')
  return columnTypes(await parquetMetadataAsync(await asyncBufferFromFile(path)))
}
