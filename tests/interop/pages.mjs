// The metadata of files of make_tables.c: lists of encodings, statistics, page index. They are
// read with hyparquet's Thrift decoder and checked against the values that went in.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pagesOf } from './checks.mjs'
import { dataDir, load, readJson, same } from './lib.mjs'

const physicalTypes = ['BOOLEAN', 'INT32', 'INT64', 'INT96', 'FLOAT', 'DOUBLE', 'BYTE_ARRAY',
  'FIXED_LEN_BYTE_ARRAY']
const encodingNames = ['PLAIN', , 'PLAIN_DICTIONARY', 'RLE', 'BIT_PACKED', 'DELTA_BINARY_PACKED',
  'DELTA_LENGTH_BYTE_ARRAY', 'DELTA_BYTE_ARRAY', 'RLE_DICTIONARY', 'BYTE_STREAM_SPLIT']
const pageTypes = { DATA: 0, DICTIONARY: 2, DATA_V2: 3 }
const boundaryOrders = ['UNORDERED', 'ASCENDING', 'DESCENDING']

/** Every column chunk of a file: {where, path, rowGroup, firstRow, rows, type, meta, statistics,
 * columnIndex, offsetIndex, pages}. Of meta the fields of ColumnMetaData by their numbers. */
export async function chunksOf(path) {
  const { deserializeTCompactProtocol: decode } = await load('hyparquet/src/thrift.js')
  const file = readFileSync(path)
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const structAt = offset => decode({ view, offset: Number(offset) })
  const footer = structAt(file.length - 8 - file.readUInt32LE(file.length - 8))
  const pages = pagesOf(path)
  const chunks = []
  let firstRow = 0
  footer.field_4.forEach((group, rowGroup) => {
    const rows = Number(group.field_3)
    for (const chunk of group.field_1) {
      const meta = chunk.field_3
      const parts = meta.field_3.map(part => Buffer.from(part).toString())
      chunks.push({
        where: `${parts.join('.')} of row group ${rowGroup}`,
        path: parts, rowGroup, firstRow, rows, meta,
        type: physicalTypes[meta.field_1],
        statistics: meta.field_12,
        columnIndex: chunk.field_6 && structAt(chunk.field_6),
        offsetIndex: chunk.field_4 && structAt(chunk.field_4),
        pages: pages.filter(page => page.row_group === rowGroup && page.column === parts.join('.'))
      })
    }
    firstRow += rows
  })
  return chunks
}

/** The lists of encodings, and their counts of pages, against the pages. */
export async function expectMetadata({ name, path, encoding, kind, version, codec }) {
  let used = 0, compressed = 0
  for (const { where, path: column, meta, pages } of await chunksOf(path)) {
    const data = pages.filter(page => page.type !== 'dictionary')
    const dictionary = pages.length - data.length
    same(data.map(page => page.type), data.map(() => version === 'V2' ? 'data v2' : 'data'), where)
    const [actual] = data.map(page => page.encoding)
    same(actual, dictionary || encoding !== 'RLE_DICTIONARY' ? encoding : 'PLAIN', where)
    same(data.every(page => page.encoding === actual), true, where)
    used += actual === encoding
    compressed += data.some(page => page.compressed_bytes < page.uncompressed_bytes)
    const levels = column.length === 1 && column[0].startsWith('required') ? [] : ['RLE']
    const wanted = new Set([actual, ...dictionary ? ['PLAIN'] : [], ...levels])
    same(meta.field_2.map(number => encodingNames[number]).sort(), [...wanted].sort(),
      `encodings of ${where}`)
    // One PLAIN page V1 has no counts.
    if (!meta.field_13) {
      same([encoding, data.length, version], ['PLAIN', 1, 'V1'], where)
      continue
    }
    same(meta.field_13.map(({ field_1, field_2, field_3 }) => [field_1, encodingNames[field_2], field_3]), [
      ...dictionary ? [[pageTypes.DICTIONARY, 'PLAIN', 1]] : [],
      [version === 'V2' ? pageTypes.DATA_V2 : pageTypes.DATA, actual, data.length]
    ], `encoding_stats of ${where}`)
  }
  if (!used && kind !== 'null') throw new Error(`no chunk is ${encoding}`)
  // Pages of the other files are too small.
  if (name.startsWith('codec') || compressed) same(compressed > 0, codec !== 'UNCOMPRESSED', 'compressed')
}

// ---- Statistics and page index -----------------------------------------------------------

/** How the values of a kind compare: a key with the order of <, from their text in the JSON and
 * from the bytes of a bound. NaN has none. undefined: the kind has no order. */
export function orderOf(kind, type) {
  const littleEndian = (bytes, signed) => {
    const bits = BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`)
    return signed ? BigInt.asIntN(bytes.length * 8, bits) : bits
  }
  const bigEndian = bytes =>
    BigInt.asIntN(bytes.length * 8, BigInt(`0x${Buffer.from(bytes).toString('hex')}`))
  const hex = bytes => Buffer.from(bytes).toString('hex')
  if (/^(int96|interval|null)$/.test(kind)) return undefined
  if (kind === 'bool') return { ofText: text => Number(text === 'true'), ofBytes: ([byte]) => byte }
  if (/^decimal/.test(kind)) {
    return { ofText: BigInt, ofBytes: /^INT/.test(type) ? bytes => littleEndian(bytes, true) : bigEndian }
  }
  if (/^time_/.test(kind)) {
    return { ofText: BigInt, ofBytes: bytes => littleEndian(bytes, true) * unitOf(kind) }
  }
  if (/timestamp_/.test(kind)) {
    return { ofText: nanosOfInstant, ofBytes: bytes => littleEndian(bytes, true) * unitOf(kind) }
  }
  if (/^([iu]\d+|date)$/.test(kind)) {
    return { ofText: BigInt, ofBytes: bytes => littleEndian(bytes, !kind.startsWith('u')) }
  }
  if (/^f\d\d$/.test(kind)) return floatOrder(kind)
  return {
    ofText: text => /^(string|enum|json)$/.test(kind) ? hex(Buffer.from(text)) : text,
    ofBytes: hex
  }
}

const unitOf = kind => ({ ms: 1000000n, us: 1000n, ns: 1n })[kind.slice(-2)]

function nanosOfInstant(text) {
  const [, seconds, fraction] = /^(-?\d+)\.(\d{9})$/.exec(text)
  return BigInt(seconds) * 1000000000n + BigInt(fraction)
}

function floatOrder(kind) {
  const ofText = text => {
    const bytes = Buffer.from(text, 'hex')
    return bytes.length === 4 ? bytes.readFloatBE() : bytes.readDoubleBE()
  }
  const ofBytes = data => {
    const bytes = Buffer.from(data)
    if (bytes.length !== { f16: 2, f32: 4, f64: 8 }[kind]) throw new Error('bound of another size')
    if (kind === 'f16') return ofText(hexOfHalf(bytes.readUInt16LE()))
    return kind === 'f32' ? bytes.readFloatLE() : bytes.readDoubleLE()
  }
  return { ofText, ofBytes, isFloat: true }
}

/** The float32 of a half that is not a NaN, as the JSON has it. */
function hexOfHalf(half) {
  const bytes = Buffer.alloc(4)
  const exponent = half >> 10 & 31, fraction = half & 1023
  const size = exponent === 31 ? Infinity
    : exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25)
  bytes.writeFloatBE(half & 0x8000 ? -size : size)
  return bytes.toString('hex')
}

/** Bounds and null counts of chunks and pages, and the places of pages. Without a kind, the JSON
 * has that of each column. */
export async function expectStatistics({ name, path, kind }) {
  const expected = readJson(join(dataDir, `${name}.json`))
  for (const chunk of await chunksOf(path)) {
    const rows = expected[chunk.path[0]].values.slice(chunk.firstRow, chunk.firstRow + chunk.rows)
    const ofLeaf = kind ?? expected[chunk.path[0]].kind
    const order = orderOf(ofLeaf, chunk.type)
    expectChunkBounds(chunk, rows, order, ofLeaf)
    expectOffsets(chunk)
    expectColumnIndex(chunk, rows, order, ofLeaf)
  }
}

/** [least, greatest] key of the values; undefined without any, or with NaN among them. */
function extremes(values, order) {
  const keys = values.filter(value => value !== null).map(order.ofText)
  if (keys.length === 0 || keys.some(Number.isNaN)) return undefined
  const key = keys.reduce((a, b) => b < a ? b : a)
  return [key, keys.reduce((a, b) => b > a ? b : a)]
}

/** Whether bytes, or a text, over the limit have no shorter upper bound: nothing is greater than
 * 0xff, or U+10FFFF. */
function isUnbounded(key, limit, type) {
  if (typeof key !== 'string' || key.length <= 2 * limit) return false
  return (type === 'bytes' ? /^(ff)+$/ : /^(f48fbfbf)+$/).test(key.slice(0, 2 * limit))
}

/** Zero is -0 as a least value and +0 as a greatest, since readers may tell them apart. */
function stored([min, max], order) {
  return order.isFloat ? [min === 0 ? -0 : min, max === 0 ? 0 : max] : [min, max]
}

function expectChunkBounds({ where, statistics, path, meta }, rows, order, kind) {
  const values = rows.flat(Infinity)
  const range = order && extremes(values, order)
  const { field_3: nulls, field_5: max, field_6: min } = statistics
  const { field_7: maxExact, field_8: minExact } = statistics
  same(statistics.field_1 ?? statistics.field_2, undefined, `old bounds of ${where}`)
  if (path.length === 1) {
    same(Number(nulls), values.filter(value => value === null).length, `nulls of ${where}`)
  }
  same(Number(nulls) <= Number(meta.field_5), true, `nulls of ${where}`)
  if (!range || isUnbounded(range[1], 1024, kind)) return same([min, max, minExact, maxExact], Array(4).fill(undefined), where)
  expectBound(min, minExact, stored(range, order)[0], order, `min of ${where}`, (a, b) => a <= b)
  expectBound(max, maxExact, stored(range, order)[1], order, `max of ${where}`, (a, b) => a >= b)
}

/** Long byte arrays are shortened: over 1024 bytes in the statistics of a chunk, which then
 * are not `exact`, and over 64 in the page index, which cannot say so. */
function expectBound(bytes, exact, key, order, where, holds) {
  if (bytes === undefined) throw new Error(`no ${where}`)
  const bound = order.ofBytes(bytes)
  const limit = exact === undefined ? 64 : 1024
  if (typeof key !== 'string' || key.length <= 2 * limit) {
    same(exact, exact && true, `exactness of ${where}`)
    return same(bound, key, where)
  }
  same([exact ?? false, bytes.length <= limit + 3, holds(bound, key)], [false, true, true], where)
}

function expectOffsets({ where, offsetIndex, pages, rows }) {
  const data = pages.filter(page => page.type !== 'dictionary')
  const places = offsetIndex.field_1.map(({ field_1, field_2, field_3 }) => [field_1, field_2, field_3].map(Number))
  same(places.map(([offset, size]) => [offset, size]),
    data.map(page => [page.header_offset, page.header_bytes + page.compressed_bytes]), where)
  const starts = places.map(([, , row]) => row)
  same(starts[0], 0, where)
  same(starts.every((row, i) => i === 0 || row > starts[i - 1]) && starts.at(-1) < rows, true, where)
}

function expectColumnIndex({ where, columnIndex, offsetIndex, statistics }, rows, order, kind) {
  const starts = offsetIndex.field_1.map(place => Number(place.field_3))
  const parts = starts.map((start, i) => rows.slice(start, starts[i + 1]).flat(Infinity))
  const isNullPage = part => part.every(value => value === null)
  const ranges = parts.map(part => order && extremes(part, order))
  if (!columnIndex) {
    const unknown = parts.some((part, i) =>
      !isNullPage(part) && (!ranges[i] || isUnbounded(ranges[i][1], 64, kind)))
    return same(unknown, true, `page without bounds in ${where}, which has no column index`)
  }
  const { field_1: nullPages, field_2: mins, field_3: maxs, field_4, field_5: nullCounts } = columnIndex
  same(nullPages, parts.map(isNullPage), `null pages of ${where}`)
  same(nullCounts.reduce((sum, count) => sum + count, 0n), statistics.field_3, `nulls of ${where}`)
  ranges.forEach((range, i) => {
    if (!range) return same([mins[i].length, maxs[i].length], [0, 0], where)
    const [min, max] = stored(range, order)
    expectBound(mins[i], undefined, min, order, `min of page ${i} of ${where}`, (a, b) => a <= b)
    expectBound(maxs[i], undefined, max, order, `max of page ${i} of ${where}`, (a, b) => a >= b)
  })
  const some = ranges.filter(Boolean)
  const steps = test => some.every(([min, max], i) => i === 0 || test(some[i - 1][0], min) && test(some[i - 1][1], max))
  const rises = steps((a, b) => a <= b), falls = steps((a, b) => a >= b)
  same(boundaryOrders[field_4], rises ? 'ASCENDING' : falls ? 'DESCENDING' : 'UNORDERED', where)
}
