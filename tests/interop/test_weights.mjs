// Tables of weights (layer_name, weights, perhaps shape) by other people's writers: aq makes
// of each what it makes of a safetensors file with the same tensors.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { aq, aqError, aqJson, load, same, scratchDir, test, writeSafetensors } from './lib.mjs'
import { quoted, sql } from './readers.mjs'

const scratch = scratchDir('weights')
const fileOf = name => join(scratch, name)

// Layer r is rows x cols; its weights are steps of 2^-10, exact in all float types.
const numLayers = 300
const shapeOf = r => [1 + r % 5, 16 * (1 + r % 4)]
const nameOf = r => `layer.${String(r).padStart(4, '0')}.weight`
const weightsOf = r => {
  const [rows, cols] = shapeOf(r)
  return Float32Array.from({ length: rows * cols }, (_, i) => ((i * 79 + r * 1047) % 2011 - 1005) / 1024)
}
const layers = Array.from({ length: numLayers }, (_, r) =>
  ({ name: nameOf(r), shape: shapeOf(r), weights: weightsOf(r) }))

const sqlTable = (weights, shape) => `
  SELECT 'layer.' || lpad(r::VARCHAR, 4, '0') || '.weight' AS layer_name,
         list_transform(range((1 + r % 5) * 16 * (1 + r % 4)),
                        lambda i: ((i * 79 + r * 1047) % 2011 - 1005) / 1024)::${weights} AS weights
         ${shape ? `, [1 + r % 5, 16 * (1 + r % 4)]::${shape} AS shape` : ''}
  FROM range(${numLayers}) t(r)`

// ---- what aq must make of it --------------------------------------------------------------

const bytesOf = array => Buffer.from(array.buffer, array.byteOffset, array.byteLength)
const asTensors = shapeOfLayer => layers.map(({ name, shape, weights }) =>
  ({ name, dtype: 'F32', shape: shapeOfLayer(shape), data: bytesOf(weights) }))
const options = ['--bits', '4', '--group-size', '16', '--tensor', '.*=4']

writeSafetensors(fileOf('matrices.safetensors'), asTensors(shape => shape))
writeSafetensors(fileOf('vectors.safetensors'), asTensors(([rows, cols]) => [rows * cols]))
for (const name of ['matrices', 'vectors']) {
  aq(['quantize', fileOf(`${name}.safetensors`), fileOf(`${name}.parquet`), ...options])
}

/** All that a model holds but the type that the values had: names, shapes, codes, scales. */
const contents = path => `SELECT * EXCLUDE dtype FROM ${quoted(path)}`

async function expectSameAs(reference, table) {
  const out = `${table}.q.parquet`
  aq(['quantize', table, out, ...options])
  aq(['verify', out])
  const expected = contents(fileOf(`${reference}.parquet`)), actual = contents(out)
  for (const [a, b] of [[actual, expected], [expected, actual]]) {
    const { columns: [names] } = await sql(
      `SELECT layer_name FROM ((${a}) EXCEPT (${b})) ORDER BY layer_name`)
    same(names, [], 'layers that differ')
  }
  same(aqJson(['inspect', out]).tensors.length, numLayers, 'tensors')
}

// ---- DuckDB -------------------------------------------------------------------------------

const plain = 'COMPRESSION uncompressed'
for (const [weights, how, shape] of [
  ['FLOAT[]', plain, 'BIGINT[]'],
  ['FLOAT[]', plain, null],
  ['FLOAT[]', `${plain}, ROW_GROUP_SIZE 2048`, 'INTEGER[2]'],
  ['FLOAT[]', 'COMPRESSION snappy', null],
  ['FLOAT[]', 'COMPRESSION zstd, PARQUET_VERSION V2', 'UINTEGER[]'],
  ['FLOAT[]', 'COMPRESSION gzip', 'BIGINT[]'],
  ['FLOAT[]', 'COMPRESSION brotli', 'BIGINT[]'],
  ['FLOAT[]', 'COMPRESSION lz4_raw', 'BIGINT[]'],
  ['DOUBLE[]', plain, 'BIGINT[]'],
  ['DOUBLE[]', 'COMPRESSION zstd, PARQUET_VERSION V2', null]
]) {
  await test(`aq quantizes a table of DuckDB: ${weights}, ${how}, shape ${shape}`, async () => {
    const table = fileOf('duckdb.parquet')
    await sql(`COPY (${sqlTable(weights, shape)}) TO ${quoted(table)} (FORMAT parquet, ${how})`)
    await expectSameAs(shape ? 'matrices' : 'vectors', table)
  })
}

await test('aq quantizes a table of DuckDB: FLOAT[N]', async () => {
  const table = fileOf('fixed.parquet'), out = fileOf('fixed.q.parquet')
  await sql(`COPY (SELECT layer_name, weights::FLOAT[48] AS weights, shape
    FROM (${sqlTable('FLOAT[]', 'BIGINT[]')}) WHERE len(weights) = 48) TO ${quoted(table)} (FORMAT parquet)`)
  aq(['quantize', table, out, ...options])
  const { columns: [names] } = await sql(
    `(${contents(out)}) EXCEPT (${contents(fileOf('matrices.parquet'))})`)
  same(names, [], 'layers that differ')
  const of48 = layers.filter(({ weights }) => weights.length === 48)
  same(aqJson(['inspect', out]).tensors.map(({ name }) => name), of48.map(({ name }) => name), 'layers')
})

for (const [what, select, message] of [
  ['null weights', `SELECT 'a' AS layer_name, NULL::FLOAT[] AS weights`, /weights of row 0 are null/],
  ['null inside', `SELECT 'a' AS layer_name, [1, NULL]::FLOAT[] AS weights`, /null inside the weights of row 0/],
  ['no name', `SELECT NULL::VARCHAR AS layer_name, [1]::FLOAT[] AS weights`, /layer_name of row 0/],
  ['integers', `SELECT 'a' AS layer_name, [1]::INTEGER[] AS weights`, /weights has another type than list of float/],
  ['a wrong shape', `SELECT 'a' AS layer_name, [1, 2]::FLOAT[] AS weights, [3] AS shape`, /2 weights .*; its shape needs 3/]
]) {
  await test(`aq refuses a table of DuckDB with ${what}`, async () => {
    const table = fileOf('bad.parquet')
    await sql(`COPY (${select}) TO ${quoted(table)} (FORMAT parquet)`)
    const error = aqError(['quantize', table, `${table}.q`])
    if (!message.test(error)) throw new Error(error)
  })
}

// ---- arrow-rs and polars, from an Arrow table -----------------------------------------------

async function arrowTable(element, withShape) {
  const arrow = await load('apache-arrow')
  const list = type => new arrow.List(new arrow.Field('item', type, true))
  const columns = {
    layer_name: arrow.vectorFromArray(layers.map(({ name }) => name), new arrow.Utf8()),
    weights: arrow.vectorFromArray(layers.map(({ weights }) => [...weights]), list(element(arrow)))
  }
  if (withShape) {
    columns.shape = arrow.vectorFromArray(layers.map(({ shape }) => shape), list(new arrow.Uint32()))
  }
  return arrow.tableToIPC(new arrow.Table(columns), 'stream')
}

const elements = { float: a => new a.Float32(), double: a => new a.Float64(), half: a => new a.Float16() }

for (const [type, element] of Object.entries(elements)) {
  for (const [version, compression, shape] of [[1, 'UNCOMPRESSED', true], [2, 'ZSTD', true], [1, 'SNAPPY', false]]) {
    await test(`aq quantizes a table of arrow-rs: ${type}, V${version}, ${compression}, shape ${shape}`, async () => {
      const { Compression, Table, WriterPropertiesBuilder, WriterVersion, writeParquet } = await load('parquet-wasm')
      const properties = new WriterPropertiesBuilder()
        .setCompression(Compression[compression]).setWriterVersion(WriterVersion[`V${version}`])
        .setMaxRowGroupSize(100).setDataPageSizeLimit(4096).build()
      const table = fileOf('arrow-rs.parquet')
      writeFileSync(table, writeParquet(Table.fromIPCStream(await arrowTable(element, shape)), properties))
      await expectSameAs(shape ? 'matrices' : 'vectors', table)
    })
  }
}

for (const type of ['float', 'double']) {
  for (const [compression, shape] of [['uncompressed', true], ['zstd', true], ['snappy', false]]) {
    await test(`aq quantizes a table of polars: ${type}, ${compression}, shape ${shape}`, async () => {
      const polars = (await load('nodejs-polars')).default
      const table = fileOf('polars.parquet')
      polars.readIPCStream(Buffer.from(await arrowTable(elements[type], shape)))
        .writeParquet(table, { compression })
      await expectSameAs(shape ? 'matrices' : 'vectors', table)
    })
  }
}
