// Statistics and page index in the hands of engines that skip by them: a query must give the
// rows that a full scan gives, and must not have looked at the rest.
import { copyFileSync, openSync, closeSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { pagesOf } from './checks.mjs'
import { kinds, writeDescribed } from './described.mjs'
import { aq, aqJson, dataDir, load, same, test } from './lib.mjs'
import { expectStatistics } from './pages.mjs'
import { quoted, sql } from './readers.mjs'

const groupRows = 48, groups = 4, rows = groupRows * groups

// ---- Values -----------------------------------------------------------------------------

const digits = n => String(n).padStart(4, '0')

/** The value of a kind that is as far up as n is in 0..191; about half are negative. */
const nth = {
  bool: n => n >= rows / 2,
  i8: n => BigInt(n) - 96n,
  u8: n => BigInt(n) + 32n, // 127, 128
  i32: n => (BigInt(n) - 96n) * 22000000n,
  u32: n => BigInt(n) * 22000000n, // over 2^31
  i64: n => (BigInt(n) - 96n) * 96000000000000000n,
  u64: n => BigInt(n) * 96000000000000000n, // over 2^63
  f16: n => (n - 96) / 4,
  f32: n => (n - 96) / 4,
  f64: n => (n - 96) * 1e300,
  string: n => `${'aä€🧮'[n >> 6]}${digits(n)}`,
  enum: n => `E${digits(n)}`,
  bytes: n => Buffer.from([n, 0x80]),
  fixed: n => Buffer.from([n, 0, 0xff, n]),
  uuid: n => Buffer.from(digits(n).repeat(8), 'hex'),
  date: n => BigInt(n * 100 - 9600),
  time_us: n => BigInt(n) * 449999999n,
  timestamp_us: n => (BigInt(n) - 96n) * 30000000000001n,
  decimal_i64: n => (BigInt(n) - 96n) * 1000003n,
  decimal_bytes: n => (BigInt(n) - 96n) * 7n ** BigInt(Math.abs(n - 96) >> 3), // of 1 to 9 bytes
  decimal_fixed: n => (BigInt(n) - 96n) * 10n ** 35n
}

const column = (pattern, kind, value) =>
  ({ name: `${pattern}:${kind}`, kind, values: Array.from({ length: rows }, (_, row) => value(row)) })

const nan = (row, value) => row % 7 === 3 || row >= 20 && row < 40 || row >= 3 * groupRows ? NaN : value
const zeros = [() => -0, () => 0, row => row % 2 ? -0 : 0, row => row % 4 ? 1 : 0]
const aboveZero = [row => row % groupRows / 4, row => -(row % groupRows) / 4, () => -0, () => 0]
const repeated = (text, bytes) => text.repeat(Math.ceil(bytes / Buffer.byteLength(text)))

/** By row group: over 64 bytes, where a character is cut; of characters that have no next; over
 * 1024 bytes. Then the next character is not the next number. */
const longTexts = [
  row => `x${repeated('ä', 70)}${digits(row)}`, row => `${repeated('\u{10ffff}', 80)}${digits(row)}`,
  row => `${repeated('q', 1100)}${digits(row)}`, row => `y${digits(row)}`
]
const farTexts = [
  row => `${repeated('\ud7ff', 1200)}${digits(row)}`, row => `${repeated('\x7f', 1100)}${digits(row)}`,
  row => `a${repeated('\u{10ffff}', 1200)}${digits(row)}`, row => `${repeated('\u{10ffff}', 1200)}${digits(row)}`
]
const longBytes = [
  row => Buffer.concat([Buffer.alloc(70, 0xff), Buffer.from([row])]),
  row => Buffer.concat([Buffer.from([7]), Buffer.alloc(70, 0xff), Buffer.from([row])]),
  row => Buffer.concat([Buffer.alloc(1100, 0x80), Buffer.from([row])]),
  row => Buffer.concat([Buffer.alloc(1030, 0xff), Buffer.from([row])])
]
const ofGroup = list => row => list[Math.floor(row / groupRows)](row)

const columns = [
  ...Object.keys(kinds).flatMap(kind => [
    column('ascending', kind, row => nth[kind](row)),
    column('descending', kind, row => nth[kind](rows - 1 - row))
  ]),
  ...['i32', 'u64', 'f64', 'string', 'decimal_bytes'].map(kind =>
    column('mixed', kind, row => nth[kind](row * 77 % rows))),
  ...['i64', 'f32', 'string'].map(kind => column('sparse', kind, row =>
    row % 5 === 2 || row >= 60 && row < 80 || row >= 3 * groupRows ? null : nth[kind](row))),
  ...['f16', 'f32', 'f64'].flatMap(kind => [
    column('nan', kind, row => nan(row, nth[kind](row))),
    column('zeros', kind, ofGroup(zeros)),
    column('around_zero', kind, ofGroup(aboveZero))
  ]),
  column('infinite', 'f64', row => [-Infinity, row, Infinity][row % 3]),
  column('long', 'string', ofGroup(longTexts)),
  column('far', 'string', ofGroup(farTexts)),
  column('long', 'bytes', ofGroup(longBytes))
]

/** A file for each column, with the number of the row beside it. */
const id = { name: 'id', kind: 'i64', values: Array.from({ length: rows }, (_, row) => BigInt(row)) }
for (const column of columns) {
  const name = `statistics-${column.name}`
  column.path = writeDescribed(name, [id, column], { groupRows, pageBytes: 64 })
  await test(`statistics and page index of ${column.name}`, () =>
    expectStatistics({ name, path: column.path }))
}

const ascending = columns.filter(({ name, kind }) => name.startsWith('ascending') && kind !== 'bool')
for (const { name, path } of ascending) {
  await test(`aq meta shows the bounds of ${name} as aq cat does`, () => {
    const values = aq(['cat', path]).trimEnd().split('\n').map(line => JSON.parse(line)[name])
    aqJson(['meta', path]).row_groups.forEach(({ columns: [, column] }, i) => {
      const { min, max, min_is_exact, max_is_exact } = column
      same([min, max, min_is_exact, max_is_exact].map(value => value === 0 ? 0 : value), // of -0
        [values[i * groupRows], values[(i + 1) * groupRows - 1], true, true], `row group ${i}`)
    })
  })
}

// ---- Conditions -------------------------------------------------------------------------

const less = (a, b) => Buffer.isBuffer(a) ? Buffer.compare(a, b) < 0
  : typeof a === 'string' ? Buffer.compare(Buffer.from(a), Buffer.from(b)) < 0 : a < b

/** The least and greatest value of each row group, and some that are not there. */
function literalsOf({ kind, values }) {
  const picks = new Map()
  const add = value => value !== null && picks.set(String(kinds[kind].bytes(value).toString('hex')), value)
  for (let from = 0; from < rows; from += groupRows) {
    const sorted = values.slice(from, from + groupRows).filter(value => value !== null)
      .sort((a, b) => less(a, b) ? -1 : less(b, a) ? 1 : 0)
    for (const at of [0, sorted.length - 1]) add(sorted[at] ?? null)
  }
  const [one, , , two] = picks.values()
  if (typeof one === 'bigint') add(one + 1n)
  if (/^f\d/.test(kind)) [NaN, 0, -0].forEach(add)
  if (kind === 'string') [`${one}!`, `${two}!`].forEach(add)
  return [...picks.values()]
}

async function expectError(body, message) {
  try {
    await body()
  } catch (error) {
    if (message.test(String(error))) return
    throw error
  }
  throw new Error(`no error that says ${message}`)
}

/** The order of the values in a column is one thing, the kind another: not all of both. */
const filtered = columns.filter(({ name, kind }) =>
  !name.startsWith('descending') || kind === 'i64' || kind === 'string')
const operators = ['=', '<>', '<', '<=', '>', '>=']

// ---- DuckDB -----------------------------------------------------------------------------

const scaled = (value, scale) => {
  const text = String(value < 0n ? -value : value).padStart(scale + 1, '0')
  return `${value < 0n ? '-' : ''}${text.slice(0, -scale)}.${text.slice(-scale)}`
}
const blob = value => `'${value.toString('hex').replace(/../g, '\\x$&')}'::BLOB`

function duckdbLiteral(kind, value) {
  const { precision, scale } = kinds[kind]
  if (precision) return `'${scaled(value, scale)}'::DECIMAL(${precision},${scale})`
  if (/^f(16|32)$/.test(kind)) return `'${Object.is(value, -0) ? '-0' : value}'::FLOAT`
  if (kind === 'f64') return `'${Object.is(value, -0) ? '-0' : value}'::DOUBLE`
  if (kind === 'date') return `('1970-01-01'::DATE + ${value})`
  if (kind === 'time_us') return `('00:00:00'::TIME + to_microseconds(${value}))`
  if (kind === 'timestamp_us') return `make_timestamptz(${value})`
  if (kind === 'uuid') return `'${value.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')}'::UUID`
  if (Buffer.isBuffer(value)) return blob(value)
  return typeof value === 'string' ? quoted(value) : String(value)
}

const idsOf = async (path, condition) =>
  (await sql(`SELECT id FROM ${quoted(path)} WHERE ${condition} ORDER BY id`)).columns[0].map(Number)

async function duckdbFilters({ name, kind, values, path }) {
  const own = literalsOf({ kind, values })
  const conditions = own.flatMap(value =>
    operators.map(operator => `"${name}" ${operator} ${duckdbLiteral(kind, value)}`))
  conditions.push(`"${name}" IS NULL`, `"${name}" IS NOT NULL`,
    `"${name}" IN (${own.slice(0, 3).map(value => duckdbLiteral(kind, value))})`,
    `"${name}" BETWEEN ${duckdbLiteral(kind, own[0])} AND ${duckdbLiteral(kind, own.at(-1))}`)
  await sql(`CREATE OR REPLACE TEMP TABLE whole AS SELECT * FROM ${quoted(path)}`)
  const { columns: whole } = await sql(`SELECT ${conditions.map(condition =>
    `coalesce(list(id ORDER BY id) FILTER (WHERE ${condition}), [])`)} FROM whole`)
  const { columns: [numbers, found] } = await sql(conditions.map((condition, i) =>
    `SELECT ${i} AS number, list(id ORDER BY id) AS found FROM ${quoted(path)} WHERE ${condition}`)
    .join(' UNION ALL '))
  numbers.forEach((number, i) =>
    same((found[i] ?? []).map(Number), whole[number][0].map(Number), conditions[number]))
}

await sql(`SET TimeZone = 'UTC'`)
for (const column of filtered) {
  await test(`DuckDB filters ${column.name}`, () => duckdbFilters(column))
}

async function duckdbBounds(path) {
  const { columns } = await sql(`SELECT stats_min_value, stats_max_value, min_is_exact, max_is_exact
    FROM parquet_metadata(${quoted(path)}) WHERE column_id = 1 ORDER BY row_group_id`)
  return columns[0].map((_, i) => columns.map(column => column[i]))
}

const seen = /^ascending:(i32|u32|i64|u64|string|decimal_i64|decimal_bytes)$/
for (const { name, kind, values, path } of columns.filter(({ name }) => seen.test(name))) {
  const text = value => kinds[kind].scale ? scaled(value, kinds[kind].scale) : String(value)
  await test(`DuckDB sees the bounds of ${name}`, async () =>
    same(await duckdbBounds(path), Array.from({ length: groups }, (_, i) =>
      [text(values[i * groupRows]), text(values[(i + 1) * groupRows - 1]), true, true]), 'bounds'))
}
await test('DuckDB sees which bounds are not exact', async () => {
  const flags = async of => (await duckdbBounds(columns.find(({ name }) => name === of).path))
    .map(([, , ...exact]) => exact)
  const [whole, cut, none] = [[true, true], [false, false], [null, null]]
  same(await flags('long:string'), [whole, whole, cut, whole], 'long:string')
  same(await flags('far:string'), [cut, cut, cut, none], 'far:string')
})

// ---- polars -----------------------------------------------------------------------------

const pl = (await load('nodejs-polars')).default
const polarsTypes = {
  bool: pl.Bool, i8: pl.Int8, u8: pl.UInt8, i32: pl.Int32, u32: pl.UInt32, i64: pl.Int64,
  u64: pl.UInt64, f32: pl.Float32, f64: pl.Float64, string: pl.Utf8, date: pl.Date
}
const polarsOperators = { '=': 'eq', '<>': 'neq', '<': 'lt', '<=': 'ltEq', '>': 'gt', '>=': 'gtEq' }

function polarsLiteral(kind, value) {
  if (kind === 'bool' || kind === 'string') return pl.lit(value)
  if (kind === 'date') return pl.lit(Number(value)).cast(pl.Int32).cast(pl.Date)
  return pl.lit(/^f/.test(kind) ? value : BigInt(value)).cast(polarsTypes[kind])
}

async function polarsIds(frame, condition) {
  const found = frame.filter(condition)
  return (found.collect ? await found.collect() : found).getColumn('id').toArray().map(Number)
}

async function polarsFilters({ name, kind, values, path }) {
  const whole = pl.readParquet(path)
  const of = pl.col(name), conditions = [['IS NULL', of.isNull()], ['IS NOT NULL', of.isNotNull()]]
  for (const value of literalsOf({ kind, values })) {
    const literal = polarsLiteral(kind, value) // costs as much as a query
    for (const operator of operators) {
      conditions.push([`${operator} ${value}`, of[polarsOperators[operator]](literal)])
    }
  }
  for (const [text, condition] of conditions) {
    same(await polarsIds(pl.scanParquet(path), condition), await polarsIds(whole, condition), text)
  }
}

for (const column of filtered.filter(({ kind }) => polarsTypes[kind])) {
  await test(`polars filters ${column.name}`, () => polarsFilters(column))
}

// ---- hyparquet ----------------------------------------------------------------------------

const { asyncBufferFromFile, parquetReadObjects } = await load('hyparquet')
const { matchFilter } = await load('hyparquet/src/filter.js')
const hyparquetKinds = /^(bool|[iu](8|32|64)|f\d\d|string|enum|date)$/
const hyparquetOperators = { '=': '$eq', '<>': '$ne', '<': '$lt', '<=': '$lte', '>': '$gt', '>=': '$gte' }
const parsers = { dateFromDays: days => days }

const hyparquetLiteral = (kind, value) => /^([iu](8|32)|date)$/.test(kind) ? Number(value) : value

async function hyparquetRows(path, column, filter) {
  const file = await asyncBufferFromFile(path)
  return parquetReadObjects({ file, parsers, columns: ['id', column], filter, usePageIndex: true })
}

async function hyparquetFilters({ name, kind, values, path }) {
  const whole = await hyparquetRows(path, name)
  for (const value of literalsOf({ kind, values })) {
    for (const [operator, key] of Object.entries(hyparquetOperators)) {
      const filter = { [name]: { [key]: hyparquetLiteral(kind, value) } }
      same((await hyparquetRows(path, name, filter)).map(row => Number(row.id)),
        whole.filter(row => matchFilter(row, filter)).map(row => Number(row.id)), `${operator} ${value}`)
    }
  }
}

for (const column of filtered.filter(({ kind }) => hyparquetKinds.test(kind))) {
  await test(`hyparquet filters ${column.name}`, () => hyparquetFilters(column))
}

// ---- Is anything skipped? -----------------------------------------------------------------

/** A copy of which all pages are destroyed but those that keep(page) says. Its name is new, since
 * DuckDB remembers what it read from a file. */
let copies = 0
function damagedCopy(path, keep) {
  const copy = join(dataDir, `damaged-${++copies}.parquet`)
  copyFileSync(path, copy)
  const file = openSync(copy, 'r+')
  for (const page of pagesOf(path).filter(page => !keep(page))) {
    const bytes = page.header_bytes + page.compressed_bytes
    writeSync(file, Buffer.alloc(bytes, 0xa5), 0, bytes, page.header_offset)
  }
  closeSync(file)
  return copy
}

const kept = 2, from = kept * groupRows, to = from + groupRows - 1
const wanted = Array.from({ length: groupRows }, (_, i) => from + i)

// DuckDB does not skip by the bounds of UUIDs. NaN may be greater than them: polars skips by those
// of floats only where it looks for one value.
for (const { name, kind, values, path } of ascending) {
  const [low, high] = [values[from], values[to]]
  const oneGroup = damagedCopy(path, page => page.row_group === kept)
  if (kind !== 'uuid') await test(`DuckDB skips row groups by ${name}`, async () => {
    const range = `BETWEEN ${duckdbLiteral(kind, low)} AND ${duckdbLiteral(kind, high)}`
    same(await idsOf(oneGroup, `"${name}" ${range}`), wanted, 'rows')
    await expectError(() => idsOf(oneGroup, `"${name}" IS NOT NULL`), /./)
  })
  if (polarsTypes[kind]) {
    await test(`polars skips row groups by ${name}`, async () => {
      const of = pl.col(name)
      const condition = /^f/.test(kind) ? of.eq(polarsLiteral(kind, low))
        : of.gtEq(polarsLiteral(kind, low)).and(of.ltEq(polarsLiteral(kind, high)))
      same(await polarsIds(pl.scanParquet(oneGroup), condition), /^f/.test(kind) ? [from] : wanted, 'rows')
      await expectError(() => polarsIds(pl.scanParquet(oneGroup), pl.col(name).isNotNull()), /./)
    })
  }
}

// hyparquet skips pages: here all but those of a few rows in the middle of a row group. It does
// not where the order of UTF-8 is not that of its strings.
const skippedByHyparquet = ascending.filter(({ kind }) => hyparquetKinds.test(kind) && kind !== 'string')
const first = from + 16, last = first + 7

/** Of each page the row group and the rows of the file, [begin, end). */
function placesOf(path) {
  const next = new Map()
  return new Map(pagesOf(path).map(({ row_group, column, num_values, header_offset }) => {
    const begin = next.get(`${row_group} ${column}`) ?? row_group * groupRows
    next.set(`${row_group} ${column}`, begin + num_values)
    return [header_offset, { column, begin, end: begin + num_values }]
  }))
}

const overlap = (page, begin, end) => page.begin < end && page.end > begin

for (const { name, kind, values, path } of skippedByHyparquet) {
  await test(`hyparquet skips pages by ${name}`, async () => {
    const places = placesOf(path)
    const hits = [...places.values()].filter(page => page.column === name && overlap(page, first, last + 1))
    const [begin, end] = [hits[0].begin, hits.at(-1).end]
    same(end - begin < groupRows, true, 'fewer rows than the row group')
    const few = damagedCopy(path, page => overlap(places.get(page.header_offset), begin, end))
    const [low, high] = [first, last].map(row => hyparquetLiteral(kind, values[row]))
    const found = await hyparquetRows(few, name, { [name]: { $gte: low, $lte: high } })
    same(found.map(row => Number(row.id)), Array.from({ length: 8 }, (_, i) => first + i), 'rows')
    await expectError(() => hyparquetRows(few, name), /./)
  })
}
