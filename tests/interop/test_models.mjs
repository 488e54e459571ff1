// Model files of every kind, written by make_models, in the eyes of other readers.
import { closeSync, copyFileSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import {
  expectChecksums, expectDequantized, expectInspected, pagesOf, readTensors
} from './checks.mjs'
import { aq, dataDir, readJson, same, scratchDir, test } from './lib.mjs'
import { expectFile, quoted, readers, sql } from './readers.mjs'

const models = ['model_widths', 'model_granularities', 'model_odd_sizes', 'model_dtypes',
  'model_small_params', 'model_shapes', 'model_names', 'model_one', 'model_of_nothing', 'model_many']
const scratch = scratchDir('models')

for (const name of models) {
  const path = join(dataDir, `${name}.parquet`)
  for (const reader of readers) {
    await test(`${reader.name} reads ${name}`, () => expectFile(reader, name))
  }
  await test(`aq verifies ${name}`, () => aq(['verify', path]))
  await test(`aq inspects ${name}`, async () => expectInspected(path, await readTensors(path)))
  await test(`the formula dequantizes ${name} as aq does`, async () =>
    expectDequantized(path, join(scratch, `${name}.safetensors`), await readTensors(path)))
  await test(`page checksums of ${name}`, () => expectChecksums(path))
}

await test('DuckDB sees the documented types', async () => {
  const { columns: [names, types] } = await sql(
    `SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM ${fileOf('model_one')})`)
  same(Object.fromEntries(names.map((name, i) => [name, types[i]])), {
    layer_name: 'VARCHAR', shape: 'UBIGINT[]', dtype: 'VARCHAR', data: 'BLOB',
    num_params: 'UBIGINT', quant_type: 'VARCHAR', scales: 'FLOAT[]', zero_points: 'FLOAT[]',
    quant_axis: 'UBIGINT', group_size: 'UBIGINT', bit_width: 'UTINYINT', packing: 'VARCHAR',
    cosine: 'DOUBLE', sqnr_db: 'DOUBLE', max_abs_error: 'DOUBLE',
    chunk_index: 'INTEGER', chunk_count: 'INTEGER'
  }, 'types')
})

await test('DuckDB sees the columns of small parameters', async () => {
  const { columns: [names, types] } = await sql(`SELECT column_name, column_type
    FROM (DESCRIBE SELECT * FROM ${fileOf('model_small_params')}) OFFSET 17`)
  same([names, types],
    [['group_params', 'params_type', 'codebook'], ['BLOB', 'VARCHAR', 'BLOB']], 'columns')
})

for (const name of ['model_names', 'model_many']) {
  await test(`DuckDB sees the name of each row group of ${name}`, async () => {
    const { columns: [lows, highs, tensors] } = await sql(
      `SELECT stats_min_value, stats_max_value, row_group_num_rows
       FROM parquet_metadata(${fileOf(name)})
       WHERE path_in_schema = 'layer_name' ORDER BY row_group_id`)
    const names = namesOf(name)
    same([lows, highs], [names, names], 'min and max')
    same(tensors.map(Number), names.map(() => 1), 'rows of the row groups')
  })
  await test(`DuckDB finds each tensor of ${name} by its name`, async () => {
    for (const tensor of namesOf(name)) same(await rowsNamed(fileOf(name), tensor), 1, tensor)
  })
}

// With all other row groups destroyed, only a reader that skips them gets an answer.
await test('DuckDB reads nothing but the row group of the tensor asked for', async () => {
  const damaged = join(scratch, 'damaged.parquet')
  const names = namesOf('model_many')
  const kept = 123
  copyFileSync(join(dataDir, 'model_many.parquet'), damaged)
  damagePages(damaged, page => page.row_group !== kept)
  same(await rowsNamed(quoted(damaged), names[kept]), 1, names[kept])
  await sql(`SELECT sum(octet_length(data)) FROM ${quoted(damaged)}`).then(
    () => { throw new Error('the damage was not noticed') }, () => {})
})

function namesOf(model) {
  return readJson(join(dataDir, `${model}.json`)).layer_name.values
}

function fileOf(model) {
  return quoted(join(dataDir, `${model}.parquet`))
}

async function rowsNamed(file, tensor) {
  const { columns: [names] } = await sql(
    `SELECT layer_name, octet_length(data) FROM ${file} WHERE layer_name = ${quoted(tensor)}`)
  same(names.filter(name => name !== tensor), [], 'other names')
  return names.length
}

function damagePages(path, chosen) {
  const pages = pagesOf(path).filter(chosen)
  const file = openSync(path, 'r+')
  for (const { header_offset, data_offset, compressed_bytes } of pages) {
    const bytes = Buffer.alloc(data_offset - header_offset + compressed_bytes, 0xff)
    writeSync(file, bytes, 0, bytes.length, header_offset)
  }
  closeSync(file)
}
