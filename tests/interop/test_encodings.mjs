// Every encoding of the writer, for every kind of value that it fits, in small pages V1 and V2.
// One file for each: encoding-ENCODING-KIND-VERSION.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { expectChecksums, pagesOf } from './checks.mjs'
import { aq, dataDir, load, readJson, same, test } from './lib.mjs'
import { expectFile, quoted, readers, sql } from './readers.mjs'

/** What a reader refuses, and what its message says of it. */
const unsupported = [
  { reader: 'DuckDB', encoding: 'BYTE_STREAM_SPLIT', kinds: /^([iu]\d+|f16|fixed)$/,
    reason: /BYTE_STREAM_SPLIT encoding is only supported for FLOAT or DOUBLE/ },
  { reader: 'polars', encoding: 'BYTE_STREAM_SPLIT', kinds: /^(f16|fixed)$/,
    reason: /Not yet supported: Decoding FixedLenByteArray/ },
  { reader: 'polars', encoding: 'DELTA_BYTE_ARRAY', kinds: /^(f16|fixed)$/,
    reason: /Not yet supported: Decoding FixedLenByteArray/ }
]

const files = readdirSync(dataDir)
  .filter(file => /^encoding-.*\.parquet$/.test(file))
  .map(file => {
    const name = file.replace('.parquet', '')
    const [, encoding, kind, version] = name.split('-')
    return { name, encoding, kind, version, path: join(dataDir, file) }
  })
const matrix = new Map(files.map(({ name }) => [name, []]))

// arrow-rs last: after one of its panics the process could not go on with it.
const order = [...readers].sort((a, b) => (a.name === 'arrow-rs') - (b.name === 'arrow-rs'))
for (const reader of order) {
  for (const file of files) await test(`${reader.name} reads ${file.name}`, () => readBy(reader, file))
}
for (const file of files) {
  await test(`aq verifies ${file.name}`, () => aq(['verify', file.path]))
  await test(`page checksums of ${file.name}`, () => expectChecksums(file.path))
  await test(`metadata of ${file.name}`, () => expectMetadata(file))
  await test(`page index of ${file.name}`, () => expectPageIndex(file))
}
for (const file of files.filter(({ kind }) => /^[iu]\d+$/.test(kind))) {
  if (refusal('DuckDB', file)) continue
  await test(`DuckDB filters ${file.name}`, () => expectFilter(file))
}
printMatrix()

function refusal(reader, { encoding, kind }) {
  return unsupported.find(entry =>
    entry.reader === reader && entry.encoding === encoding && entry.kinds.test(kind))
}

async function readBy(reader, file) {
  const expected = refusal(reader.name, file)
  const row = matrix.get(file.name)
  if (!expected) {
    row.push('FAIL')
    await expectFile(reader, file.name)
    row[row.length - 1] = 'yes'
    return
  }
  row.push('no')
  let message
  try {
    await expectFile(reader, file.name)
  } catch (error) {
    message = String(error.message ?? error)
  }
  if (!message) throw new Error('is read, though the table here says that it cannot be')
  if (!expected.reason.test(message)) throw new Error(message)
}

function printMatrix() {
  const line = cells => console.log(`     ${cells.map((cell, i) => cell.padEnd(i ? 10 : 44)).join('')}`)
  line(['file', ...order.map(reader => reader.name)])
  for (const [name, cells] of matrix) line([name.replace('encoding-', ''), ...cells])
}

async function metadataOf(path) {
  const { asyncBufferFromFile, parquetMetadataAsync } = await load('hyparquet')
  return parquetMetadataAsync(await asyncBufferFromFile(path))
}

/** The lists of encodings, and their counts of pages, against the pages. */
async function expectMetadata({ path, encoding, version }) {
  const { row_groups: groups } = await metadataOf(path)
  const pages = pagesOf(path)
  let used = 0
  groups.forEach(({ columns }, row_group) => columns.forEach(({ meta_data: meta }) => {
    const column = meta.path_in_schema.join('.')
    const mine = pages.filter(page => page.row_group === row_group && page.column === column)
    const data = mine.filter(page => page.type !== 'dictionary')
    const dictionary = mine.length - data.length
    const where = `${column} of row group ${row_group}`
    same(data.map(page => page.type), data.map(() => version === 'V2' ? 'data v2' : 'data'), where)
    const [actual] = data.map(page => page.encoding)
    same(actual, dictionary || encoding !== 'RLE_DICTIONARY' ? encoding : 'PLAIN', where)
    same(data.every(page => page.encoding === actual), true, where)
    used += actual === encoding
    const levels = column === meta.path_in_schema[0] && column.startsWith('required') ? [] : ['RLE']
    const wanted = new Set([actual, ...dictionary ? ['PLAIN'] : [], ...levels])
    same([...meta.encodings].sort(), [...wanted].sort(), `encodings of ${where}`)
    // One PLAIN page V1 has no counts.
    if (!meta.encoding_stats) return same([encoding, data.length, version], ['PLAIN', 1, 'V1'], where)
    same(meta.encoding_stats.map(({ page_type, encoding, count }) => [page_type, encoding, count]), [
      ...dictionary ? [['DICTIONARY_PAGE', 'PLAIN', 1]] : [],
      [version === 'V2' ? 'DATA_PAGE_V2' : 'DATA_PAGE', actual, data.length]
    ], `encoding_stats of ${where}`)
  }))
  if (!used) throw new Error(`no chunk is ${encoding}`)
}

/** Offsets and sizes against the pages; bounds and null counts against the values. */
async function expectPageIndex({ name, path, kind }) {
  const { asyncBufferFromFile, readColumnIndex, readOffsetIndex } = await load('hyparquet')
  const file = await asyncBufferFromFile(path)
  const { row_groups: groups, schema } = await metadataOf(path)
  const pages = pagesOf(path).filter(page => page.type !== 'dictionary')
  const expected = readJson(join(dataDir, `${name}.json`))
  const at = async (offset, length) => ({
    view: new DataView(await file.slice(Number(offset), Number(offset) + length)), offset: 0
  })
  let firstRow = 0
  for (const [row_group, group] of groups.entries()) {
    const rows = Number(group.num_rows)
    for (const chunk of group.columns) {
      const path = chunk.meta_data.path_in_schema
      const where = `${path.join('.')} of row group ${row_group}`
      const mine = pages.filter(page => page.row_group === row_group && page.column === path.join('.'))
      const { page_locations: locations } =
        readOffsetIndex(await at(chunk.offset_index_offset, chunk.offset_index_length))
      same(locations.map(page => [Number(page.offset), page.compressed_page_size]),
        mine.map(page => [page.header_offset, page.header_bytes + page.compressed_bytes]), where)
      const starts = locations.map(page => Number(page.first_row_index))
      same(starts[0], 0, where)
      same(starts.every((row, i) => i === 0 || row > starts[i - 1]) && starts.at(-1) < rows, true, where)
      if (chunk.column_index_offset === undefined) {
        // A type without an order, or a page of nothing but NaN.
        same(/^(int96|f16|f32|f64)$/.test(kind), true, `no column index: ${where}`)
        continue
      }
      const element = schema.find(({ name, type }) => type && name === path.at(-1))
      const index = readColumnIndex(await at(chunk.column_index_offset, chunk.column_index_length), element)
      same(index.null_counts.reduce((sum, count) => sum + count, 0n),
        BigInt(chunk.meta_data.statistics.null_count), `null counts of ${where}`)
      if (path.length > 1) continue
      const values = expected[path[0]].values.slice(firstRow, firstRow + rows)
      const parts = starts.map((start, i) => values.slice(start, starts[i + 1] ?? rows))
      same(index.null_counts.map(Number), parts.map(part => part.filter(v => v === null).length), where)
      same(index.null_pages, parts.map(part => part.every(v => v === null)), where)
      if (/^[iu]\d+$/.test(kind)) expectBounds(index, parts, where)
    }
    firstRow += rows
  }
}

function expectBounds(index, parts, where) {
  const bounds = parts.map(part => part.filter(v => v !== null).map(BigInt))
    .map(part => part.sort((a, b) => a < b ? -1 : a > b ? 1 : 0))
  const bound = (values, i) => index.null_pages[i] ? undefined : BigInt(values[i])
  same(parts.map((_, i) => bound(index.min_values, i)), bounds.map(part => part[0]), `min of ${where}`)
  same(parts.map((_, i) => bound(index.max_values, i)), bounds.map(part => part.at(-1)), `max of ${where}`)
  const some = bounds.filter(part => part.length)
  const rises = some.every((part, i) => i === 0 || (some[i - 1][0] <= part[0] && some[i - 1].at(-1) <= part.at(-1)))
  const falls = some.every((part, i) => i === 0 || (some[i - 1][0] >= part[0] && some[i - 1].at(-1) >= part.at(-1)))
  same(index.boundary_order, rises ? 'ASCENDING' : falls ? 'DESCENDING' : 'UNORDERED', where)
}

/** Wrong statistics would lose rows of a query. */
async function expectFilter({ name, path, kind }) {
  const { values } = readJson(join(dataDir, `${name}.json`))[`required_${kind}`]
  for (const value of new Set(values)) {
    const { columns: [[count]] } = await sql(
      `SELECT count(*) FROM ${quoted(path)} WHERE required_${kind} = ${value}`)
    same(Number(count), values.filter(other => other === value).length, `rows with ${value}`)
  }
}
