// Tables of every physical type, written through the aq_writer_ functions.
import { join } from 'node:path'
import { expectChecksums } from './checks.mjs'
import { writeDescribed } from './described.mjs'
import { aq, dataDir, load, readJson, same, test } from './lib.mjs'
import { expectFile, quoted, readers, sql } from './readers.mjs'

const tables = ['table_plain', 'table_statistics', 'table_zstd', 'table_snappy', 'table_no_rows']
const filtered =
  ['bool', 'i8', 'i16', 'i32', 'i64', 'u8', 'u16', 'u32', 'u64', 'f32', 'f64', 'string']

for (const name of tables) {
  for (const reader of readers) {
    await test(`${reader.name} reads ${name}`, () => expectFile(reader, name))
  }
  await test(`aq verifies ${name}`, () => aq(['verify', pathOf(name)]))
  await test(`page checksums of ${name}`, () => expectChecksums(pathOf(name)))
}

// A query engine skips row groups by their statistics: wrong ones would lose rows.
for (const column of filtered.flatMap(kind => [`required_${kind}`, `optional_${kind}`])) {
  await test(`DuckDB filters ${column} by its statistics`, () => filterBy(column))
}

await test('DuckDB sees the null counts', async () => {
  const { columns: [paths, counts] } = await sql(
    `SELECT path_in_schema, sum(stats_null_count)
     FROM parquet_metadata(${fileOf('table_statistics')})
     WHERE path_in_schema NOT LIKE '%,%' GROUP BY ALL`)
  const expected = readJson(join(dataDir, 'table_statistics.json'))
  paths.forEach((path, i) =>
    same(Number(counts[i]), expected[path].values.filter(value => value === null).length, path))
})

await test('key-value metadata is text to DuckDB and hyparquet', async () => {
  const { columns: [keys, values] } = await sql(
    `SELECT decode(key), decode(value) FROM parquet_kv_metadata(${fileOf('table_plain')})`)
  same([keys, values], [['note'], ['ä = a umlaut']], 'DuckDB')
  const { asyncBufferFromFile, parquetMetadataAsync } = await load('hyparquet')
  const metadata = await parquetMetadataAsync(await asyncBufferFromFile(pathOf('table_plain')))
  same(metadata.key_value_metadata, [{ key: 'note', value: 'ä = a umlaut' }], 'hyparquet')
})

// JavaScript writes the shortest digits of a double too.
await test('aq cat writes doubles as JavaScript does', () => {
  const bits = new BigUint64Array(20000), doubles = new Float64Array(bits.buffer)
  for (let i = 0, state = 1n; i < bits.length; i++) { // a number of any exponent, or a power of 2
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n)
    bits[i] = i % 4 ? state : state >> 52n << 52n
  }
  const values = [...doubles].filter(Number.isFinite)
  const path = writeDescribed('doubles', [{ name: 'x', kind: 'f64', values }], { groupRows: 20000, pageBytes: 0 })
  const lines = aq(['cat', path]).trimEnd().split('\n')
  same(lines.length, values.length, 'lines')
  values.forEach((value, i) => {
    const text = /^\{"x": (.*)\}$/.exec(lines[i])[1]
    same([Number(text), digitsOf(text)], [value, digitsOf(String(value))], lines[i])
  })
})

function digitsOf(number) {
  return number.replace(/e.*/, '').replace(/[-.]/g, '').replace(/^0+|0+$/g, '')
}

async function filterBy(column) {
  const { type, values } = readJson(join(dataDir, 'table_statistics.json'))[column]
  for (const value of new Set(values.filter(value => value !== null))) {
    const { columns: [[count]] } = await sql(`SELECT count(*) FROM ${fileOf('table_statistics')}
      WHERE ${column} = ${literal(type, value)}`)
    const matches = values.filter(other => other !== null && equal(type, value, other)).length
    same(Number(count), matches, `rows with ${value}`)
  }
}

function pathOf(name) {
  return join(dataDir, `${name}.parquet`)
}

function fileOf(name) {
  return quoted(pathOf(name))
}

function literal(type, value) {
  if (type === 'string') return quoted(value)
  if (type === 'f32') return `'${numberOf(type, value)}'::FLOAT`
  if (type === 'f64') return `'${numberOf(type, value)}'::DOUBLE`
  return value
}

// As SQL compares: -0 = 0, and in DuckDB NaN = NaN.
function equal(type, a, b) {
  if (type !== 'f32' && type !== 'f64') return a === b
  const [x, y] = [numberOf(type, a), numberOf(type, b)]
  return x === y || (x !== x && y !== y)
}

function numberOf(type, hex) {
  const bytes = Buffer.from(hex, 'hex')
  return type === 'f32' ? bytes.readFloatBE() : bytes.readDoubleBE()
}
