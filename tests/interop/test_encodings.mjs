// Every encoding of the writer, for every kind of value that it fits, in small pages V1 and V2;
// and every codec in larger ones.
import { expectChecksums } from './checks.mjs'
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

const encodings = filesOf('encoding'), codecs = filesOf('codec')
await readAll([...encodings, ...codecs], exceptionOf)
for (const file of [...encodings, ...codecs]) {
  await test(`aq verifies ${file.name}`, () => aq(['verify', file.path]))
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

const codecRows = () => [...grouped(codecs, file => file.codec)].map(([codec, files]) =>
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
