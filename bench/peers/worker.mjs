// The engines that node runs: polars, hyparquet, and arrow-rs as a writer of files.
//   node worker.mjs ENGINE CASE IN OUT
// Says "ready", then answers every line with "SECONDS CPU-SECONDS SUM", as the workers in C do.
import { createRequire } from 'node:module'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { resolve, join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const [engine, name, input, output] = process.argv.slice(2)
const [operation, data, how] = name.split('.')
const require = createRequire(join(resolve(process.env.PEERS_NPM ?? 'build/interop'),
  'package.json'))
const load = name => import(pathToFileURL(require.resolve(name)))
const compression = how === 'snappy' || how === 'zstd' ? how : 'uncompressed'
const strings = data === 'string'
const unchecked = NaN

// ---- polars ---------------------------------------------------------------------------

// The cheapest expression that needs every value; a string's length lies beside it.
function polarsValues(pl) {
  const v = pl.col('v')
  if (data === 'list') return v.lst.sum()
  if (data === 'int32') return v.cast(pl.Int64)
  return strings ? v.str.lengths() : v
}

async function polars(lazy) {
  const module = await load('nodejs-polars')
  const pl = module.default ?? module
  const v = pl.col('v')
  // A sum of 64 bits comes out of polars as 32: a double holds it.
  const result = frame => frame.select(v.cast(pl.Float64)).getColumn('v').get(0)
  if (operation === 'write') {
    const frame = pl.readParquet(input)
    return lazy
      ? () => void frame.lazy().sinkParquet(output, { compression, compressionLevel: 1 })
          .collectSync()
      : () => void frame.writeParquet(output, { compression })
  }
  if (operation === 'footer') {
    return () => void pl.scanParquet(input).select(pl.len()).collectSync()
  }
  if (data === 'blob') return () => void pl.readParquet(input).height
  if (lazy && !strings) {
    const sum = polarsValues(pl).sum()
    return () => result(pl.scanParquet(input).select(sum).collectSync())
  }
  return () => result(pl.readParquet(input).select(polarsValues(pl)).select(v.sum()))
}

// ---- hyparquet ------------------------------------------------------------------------

function addAll(values) {
  if (typeof values === 'number') return values
  if (typeof values === 'bigint') return Number(values)
  if (typeof values === 'string') return Buffer.byteLength(values)
  let sum = 0
  if (values instanceof Uint8Array) {
    if (strings) return values.length
    const whole = values.byteOffset % 4 ? values.slice() : values
    values = new Float32Array(whole.buffer, whole.byteOffset, whole.byteLength / 4)
  }
  if (values instanceof Float32Array || typeof values[0] === 'number') {
    for (let i = 0; i < values.length; i++) sum += values[i]
    return sum
  }
  for (let i = 0; i < values.length; i++) sum += addAll(values[i])
  return sum
}

async function hyparquet() {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetRead } = await load('hyparquet')
  const { compressors } = await load('hyparquet-compressors')
  if (operation === 'footer') {
    return async () => void await parquetMetadataAsync(await asyncBufferFromFile(input))
  }
  return async () => {
    let sum = 0
    const file = await asyncBufferFromFile(input)
    const onChunk = ({ columnData }) => { sum += addAll(columnData) }
    await parquetRead({ file, compressors, columns: ['v'], utf8: false, onChunk })
    return sum
  }
}

// ---- arrow-rs -------------------------------------------------------------------------

// Data pages V2, and encodings that the others do not write.
async function arrowRs() {
  const parquet = await load('parquet-wasm')
  const { Encoding, Compression, WriterVersion } = parquet
  const encoding = {
    delta: Encoding.DELTA_BINARY_PACKED, bss: Encoding.BYTE_STREAM_SPLIT,
    dlba: Encoding.DELTA_LENGTH_BYTE_ARRAY, dba: Encoding.DELTA_BYTE_ARRAY
  }[how]
  const codec = { snappy: Compression.SNAPPY, zstd: Compression.ZSTD }[how]
  return () => {
    let builder = new parquet.WriterPropertiesBuilder()
      .setWriterVersion(WriterVersion.V2)
      .setDictionaryEnabled(how === 'dict')
      .setCompression(codec ?? Compression.UNCOMPRESSED)
    if (encoding !== undefined) builder = builder.setEncoding(encoding)
    const table = parquet.readParquet(readFileSync(input))
    writeFileSync(output, parquet.writeParquet(table, builder.build()))
  }
}

// ---------------------------------------------------------------------------------------

const starts = {
  polars: () => polars(true),
  polars2: () => polars(false),
  hyparquet,
  arrowrs: arrowRs
}

const answer = line => process.stdout.write(`${line}\n`)
const refuse = error => {
  answer(`error ${String(error?.message ?? error).split('\n')[0]}`)
  process.exit(1)
}

try {
  const run = await starts[engine]()
  answer('ready')
  for await (const _ of createInterface({ input: process.stdin })) {
    if (operation === 'write') rmSync(output, { force: true })
    const cpuStart = process.cpuUsage()
    const start = process.hrtime.bigint()
    const sum = await run() ?? unchecked
    const seconds = Number(process.hrtime.bigint() - start) / 1e9
    const { user, system } = process.cpuUsage(cpuStart)
    answer(`${seconds} ${(user + system) / 1e6} ${String(sum).toLowerCase()}`)
  }
} catch (error) {
  refuse(error)
}
