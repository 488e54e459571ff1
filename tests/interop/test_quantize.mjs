// A real model, quantized by aq: all readers agree on it, and with aq.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import {
  expectAgreement, expectChecksums, expectDequantized, expectInspected, readTensors
} from './checks.mjs'
import { aq, aqJson, readSafetensors, same, scratchDir, sharedModels, skip, test } from './lib.mjs'
import { columnTypes } from './model.mjs'
import { quoted, sql } from './readers.mjs'

const original = join(sharedModels, 'taef2_decoder.safetensors')
const scratch = scratchDir('quantize')

if (!existsSync(original)) {
  skip('quantized models', 'taef2_decoder.safetensors is not on this machine')
} else {
  for (const bits of [8, 4, 2]) await testWidth(bits)
  await testWidth(8, '--scales', 'f16')
  await testWidth(4, '--scales', 'u8', '--group-size', '32')
  for (const bits of [4, 2]) await testWidth(bits, '--codebook', '--group-size', '16')
}

async function testWidth(bits, ...options) {
  const path = join(scratch, `bits_${[bits, ...options].join('_')}.parquet`)
  const title = ['taef2_decoder at', bits, 'bits', ...options].join(' ')
  await test(`aq quantizes ${title}`, () => {
    aq(['quantize', original, path, '--bits', `${bits}`, ...options])
    aq(['verify', path])
    const expected = [...readSafetensors(original)].map(([name, { shape }]) => [name, shape])
    const actual = aqJson(['inspect', path]).tensors.map(({ name, shape }) => [name, shape])
    same(actual, expected.sort(byName), 'tensors')
  })
  await test(`all readers agree on ${title}`, () => expectAgreement(path, columnTypes))
  await test(`aq inspects ${title}`, async () => expectInspected(path, await readTensors(path)))
  await test(`DuckDB queries ${title}`, () => queryAgrees(path))
  await test(`the formula dequantizes ${title} as aq does`, async () =>
    expectDequantized(path, `${path}.safetensors`, await readTensors(path)))
  await test(`page checksums of ${title}`, () => expectChecksums(path))
}

async function queryAgrees(path) {
  const { columns: [names, shapes, widths, cosines] } = await sql(
    `SELECT layer_name, shape, bit_width, cosine FROM ${quoted(path)} ORDER BY layer_name`)
  const rows = names.map((name, i) => [name, shapes[i].map(Number), widths[i], cosines[i]])
  const inspected = aqJson(['inspect', path]).tensors
    .map(({ name, shape, bit_width, cosine }) => [name, shape, bit_width, cosine])
  same(rows, inspected, 'rows')
}

function byName([a], [b]) {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
