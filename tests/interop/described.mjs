// Tables of flat, optional columns whose values a test makes up; make_models writes them.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { dataDir, makeModels } from './lib.mjs'

const little = (bits, value) => {
  const bytes = Buffer.alloc(bits / 8)
  for (let i = 0, rest = BigInt.asUintN(bits, value); i < bytes.length; i++, rest >>= 8n) {
    bytes[i] = Number(rest & 255n)
  }
  return bytes
}

function half(value) {
  const view = new DataView(new ArrayBuffer(4))
  view.setFloat32(0, value)
  const bits = view.getUint32(0)
  const sign = bits >>> 16 & 0x8000
  const exponent = (bits >>> 23 & 255) - 112
  if (value !== value) return 0x7e00
  if (value === 0) return sign
  if (exponent <= 0 || exponent >= 31 || bits & 0x1fff) throw new Error(`${value} is no half`)
  return sign | exponent << 10 | bits >>> 13 & 1023
}

const hexOf = { 4: 'writeFloatBE', 8: 'writeDoubleBE' }
function hexOfFloat(size, value) {
  const bytes = Buffer.alloc(size)
  bytes[hexOf[size]](value)
  return bytes.toString('hex')
}

function float(size, write) {
  return { text: value => hexOfFloat(size, value), bytes: value => {
    const bytes = Buffer.alloc(size)
    bytes[write](value)
    return bytes
  } }
}

const int32 = { bytes: value => little(32, value) }, int64 = { bytes: value => little(64, value) }
const utf8 = { physical: 6, text: value => value, bytes: value => Buffer.from(value) }
const raw = { text: value => value.toString('hex'), bytes: value => value }

function bigEndian(value, size) {
  return Buffer.from(little(8 * size, value)).reverse()
}

function shortest(value) {
  let size = 1
  while (BigInt.asIntN(8 * size, value) !== value) size++
  return bigEndian(value, size)
}

/** Of each kind what make_described.c takes, `bytes` of a value and its `text` in the JSON: a
 * BigInt of integers, times and decimals, a number of floats, a string, or a Buffer. */
export const kinds = {
  bool: { physical: 0, text: String, bytes: value => Buffer.from([Number(value)]) },
  i8: { physical: 1, logical: 9, bits: 8, signed: 1, ...int32 },
  u8: { physical: 1, logical: 9, bits: 8, ...int32 },
  i32: { physical: 1, ...int32 },
  u32: { physical: 1, logical: 9, bits: 32, ...int32 },
  i64: { physical: 2, ...int64 },
  u64: { physical: 2, logical: 9, bits: 64, ...int64 },
  f16: { physical: 7, logical: 14, length: 2, text: value => hexOfFloat(4, value),
    bytes: value => little(16, BigInt(half(value))) },
  f32: { physical: 4, ...float(4, 'writeFloatLE') },
  f64: { physical: 5, ...float(8, 'writeDoubleLE') },
  string: { logical: 1, ...utf8 },
  enum: { logical: 4, ...utf8 },
  bytes: { physical: 6, ...raw },
  fixed: { physical: 7, length: 4, ...raw },
  uuid: { physical: 7, logical: 13, length: 16, ...raw },
  date: { physical: 1, logical: 6, ...int32 },
  time_us: { physical: 2, logical: 7, unit: 1000, ...int64, text: value => `${value * 1000n}` },
  timestamp_us: { physical: 2, logical: 8, unit: 1000, utc: 1, ...int64,
    text: value => `${(value - mod(value)) / 1000000n}.${String(mod(value)).padStart(6, '0')}000` },
  decimal_i64: { physical: 2, logical: 5, precision: 18, scale: 5, ...int64 },
  decimal_bytes: { physical: 6, logical: 5, precision: 20, scale: 3, bytes: shortest },
  decimal_fixed: { physical: 7, logical: 5, length: 16, precision: 38, scale: 10,
    bytes: value => bigEndian(value, 16) }
}

const mod = value => (value % 1000000n + 1000000n) % 1000000n

/** The type of canonical(). */
const typeOf = kind => kind.replace(/^[iu]\d+$/, 'int').replace(/^(enum)$/, 'string')
  .replace(/^fixed$/, 'bytes').replace(/^(decimal|time|timestamp)_.*/, '$1')

/** Writes NAME.parquet and NAME.json. columns: [{name, kind, values, null for null}]. */
export function writeDescribed(name, columns, { groupRows, pageBytes, version = 1 }) {
  const words = [pageBytes, version, columns.length]
  for (const column of columns) {
    const kind = kinds[column.kind]
    words.push(column.name, kind.physical, kind.logical ?? 0, kind.length ?? 0, kind.bits ?? 0,
      kind.signed ?? 0, kind.precision ?? 0, kind.scale ?? 0, kind.unit ?? 0, kind.utc ?? 0,
      column.encoding ?? 0, column.codec ?? 0)
  }
  const rows = columns[0].values.length
  words.push(Math.ceil(rows / groupRows))
  for (let from = 0; from < rows; from += groupRows) {
    words.push(Math.min(groupRows, rows - from))
    for (const { kind, values } of columns) {
      for (const value of values.slice(from, from + groupRows)) {
        words.push(value === null ? '-' : `x${kinds[kind].bytes(value).toString('hex')}`)
      }
    }
  }
  const path = join(dataDir, `${name}.parquet`)
  const done = spawnSync(makeModels, ['--table', path], { input: words.join('\n'), encoding: 'utf8' })
  if (done.status !== 0) throw new Error(`make_models --table: ${done.stderr}`)
  const textOf = ({ kind, values }) => values.map(value =>
    value === null ? null : (kinds[kind].text ?? String)(value))
  writeFileSync(join(dataDir, `${name}.json`), JSON.stringify(Object.fromEntries(
    columns.map(column => [column.name, { type: typeOf(column.kind), kind: column.kind, values: textOf(column) }]))))
  return path
}
