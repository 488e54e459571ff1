// Every encoding of the writer, for every kind of value that it fits, in small pages V1 and V2;
// and every codec in larger and in large ones.
import { expectChecksums } from './checks.mjs'
import { writeDescribed } from './described.mjs'
import { aq, test } from './lib.mjs'
import { filesOf, publish, readAll, rowOf } from './matrix.mjs'
import { expectMetadata, expectStatistics } from './pages.mjs'

/** What a reader refuses, and what its message says of it. */
const refusals = [
  { reader: 'DuckDB', codec: /^LZ4$/, reason: /Unsupported compression codec "LZ4"/ },
  { reader: 'DuckDB', encoding: /^BYTE_STREAM_SPLIT$/, kind: /^([iu]\d+|f16|fixed)$/,
    reason: /BYTE_STREAM_SPLIT encoding is only supported for FLOAT or DOUBLE/ },
  { reader: 'polars', encoding: /^(BYTE_STREAM_SPLIT|DELTA_BYTE_ARRAY)$/, kind: /^(f16|fixed)$/,
    reason: /Not yet supported: Decoding FixedLenByteArray/ }
]

const exceptionOf = (reader, file) => refusals.find(entry => entry.reader === reader &&
  ['encoding', 'kind', 'codec'].every(key => !entry[key] || entry[key].test(file[key])))

/** Pages of up to 400 KB, in which the codecs look back as far as they can. */
function writeLargePages(number, codec, version) {
  const values = count => Array.from({ length: 20000 }, (_, i) => count(i))
  const column = (kind, encoding, value) => ({ name: kind, kind, encoding, codec: number, values: values(value) })
  writeDescribed(`large-PLAIN-pages-V${version}-${codec}`, [
    column('i64', 0, i => BigInt(i) * 1000003n),
    column('f64', 9, i => Math.sqrt(i)),
    column('string', 0, i => `${i % 1000} of ${codec.repeat(i % 5)}`)
  ], { groupRows: 20000, pageBytes: 0, version })
}

const codecNames = ['UNCOMPRESSED', 'SNAPPY', 'GZIP', , 'BROTLI', 'LZ4', 'ZSTD', 'LZ4_RAW']
codecNames.forEach((codec, number) => writeLargePages(number, codec, 1 + number % 2))

const encodings = filesOf('encoding'), codecs = filesOf('codec'), large = filesOf('large')
await readAll([...encodings, ...codecs, ...large], exceptionOf)
await test('aq verifies them', () =>
  aq(['verify', ...[...encodings, ...codecs, ...large].map(file => file.path)]))
for (const file of [...encodings, ...codecs]) {
  await test(`page checksums of ${file.name}`, () => expectChecksums(file.path))
  await test(`metadata of ${file.name}`, () => expectMetadata(file))
  await test(`statistics of ${file.name}`, () => expectStatistics(file))
}

/** The kinds of an encoding, those together that fare alike. */
function encodingRows() {
  const rows = new Map()
  for (const [name, files] of grouped(encodings, file => `${file.encoding} ${file.kind}`)) {
    const [encoding, kind] = name.split(' ')
    const verdicts = rowOf([], files, read => `pages ${read.map(file => file.version).join(', ')} only`)
    const row = grouped([...rows.values()], ({ key }) => key).get(`${encoding} ${verdicts}`)?.[0]
    if (row) row.kinds.push(kind)
    else rows.set(name, { key: `${encoding} ${verdicts}`, encoding, kinds: [kind], verdicts })
  }
  return [...rows.values()].map(({ encoding, kinds, verdicts }) =>
    [encoding, kinds.join(' '), ...verdicts])
}

const codecRows = () => [...grouped([...codecs, ...large], file => file.codec)].map(([codec, files]) =>
  rowOf([codec], files, read => read.map(file => `${file.encoding} ${file.version}`).join(', ')))

function grouped(items, keyOf) {
  const groups = new Map()
  for (const item of items) {
    const key = keyOf(item)
    groups.set(key, [...groups.get(key) ?? [], item])
  }
  return groups
}

await publish('encodings', ['encoding', 'of'], encodingRows())
await publish('codecs', ['codec'], codecRows())
