// Which reader reads what: the tests of the writer's files, and the tables of docs/PARQUET.md.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { dataDir, readJson, root, same, test } from './lib.mjs'
import { canonical, readers } from './readers.mjs'

// arrow-rs last: after one of its panics the process could not go on with it.
const order = [...readers].sort((a, b) => (a.name === 'arrow-rs') - (b.name === 'arrow-rs'))

/** The files SET-ENCODING-KIND-VERSION-CODEC of make_tables.c. */
export function filesOf(set) {
  return readdirSync(dataDir)
    .filter(file => file.startsWith(`${set}-`) && file.endsWith('.parquet'))
    .map(file => {
      const name = file.replace('.parquet', '')
      const [, encoding, kind, version, codec] = name.split('-')
      return { name, encoding, kind, version, codec, path: join(dataDir, file), verdicts: {} }
    })
}

/**
 * Lets every reader read every file; file.verdicts[reader] becomes "yes", "no" or a note.
 * exceptionOf(reader, file) gives, where not all values come back, {reason}: what the error
 * message says, or {note, type, value}: another type, and what becomes of an expected value.
 */
export async function readAll(files, exceptionOf) {
  for (const reader of order) {
    for (const file of files) {
      await test(`${reader.name} reads ${file.name}`, () =>
        readOne(reader, file, exceptionOf(reader.name, file)))
    }
  }
}

async function readOne(reader, file, exception) {
  file.verdicts[reader.name] = 'FAIL'
  const expected = readJson(join(dataDir, `${file.name}.json`))
  const why = await failureOf(() => compare(reader, file, expected))
  if (!exception) {
    if (why) throw why
  } else if (!why) {
    throw new Error('is read, though the table of this test says that it cannot be')
  } else if (exception.reason) {
    if (!exception.reason.test(why.message)) throw why
  } else {
    await compare(reader, file, mapValues(expected, ({ type, values }) =>
      ({ type: mapTree(type, () => exception.type), values: mapTree(values, exception.value) })))
  }
  file.verdicts[reader.name] = exception ? exception.note ?? 'no' : 'yes'
}

async function compare(reader, file, expected) {
  const actual = await reader.read(file.path)
  same(Object.keys(actual), Object.keys(expected), 'the list of columns')
  for (const [column, { type, values }] of Object.entries(expected)) {
    same(actual[column].map(value => canonical(type, value)), values, column)
  }
}

async function failureOf(body) {
  try {
    await body()
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
}

const mapValues = (object, fn) =>
  Object.fromEntries(Object.entries(object).map(([key, value]) => [key, fn(value)]))

function mapTree(tree, fn) {
  if (tree === null) return null
  if (Array.isArray(tree)) return tree.map(item => mapTree(item, fn))
  return typeof tree === 'object' ? mapValues(tree, item => mapTree(item, fn)) : fn(tree)
}

// ---- Tables -----------------------------------------------------------------------------

/** A row of verdicts for files that belong together. Where they differ, describe(files) names
 * those that are read. */
export function rowOf(cells, files, describe) {
  return [...cells, ...order.map(({ name }) => {
    const verdicts = [...new Set(files.map(file => file.verdicts[name]))]
    if (verdicts.length === 1) return verdicts[0]
    return describe(files.filter(file => file.verdicts[name] === 'yes'))
  })]
}

/** Prints a table; the one of that name in docs/PARQUET.md must be the same. With
 * INTEROP_UPDATE=1 it becomes the same. */
export async function publish(name, headings, rows) {
  const lines = [headings.concat(order.map(reader => reader.name)), ...rows]
  const widths = lines[0].map((_, i) => Math.max(...lines.map(cells => cells[i].length)))
  for (const cells of lines) {
    console.log(`     ${cells.map((cell, i) => cell.padEnd(widths[i] + 2)).join('').trimEnd()}`)
  }
  const row = cells => `| ${cells.join(' | ')} |\n`
  const table = row(lines[0]) + row(lines[0].map(() => '---')).replaceAll(' ', '') +
    rows.map(row).join('')
  await test(`docs/PARQUET.md has the table "${name}"`, () => expectTable(name, table))
}

function expectTable(name, table) {
  const path = join(root, 'docs', 'PARQUET.md')
  const text = readFileSync(path, 'utf8')
  const [begin, end] = [`<!-- table: ${name} -->\n`, '<!-- end -->\n']
  const from = text.indexOf(begin) + begin.length
  const to = text.indexOf(end, from)
  if (from < begin.length || to < 0) throw new Error(`no "${begin.trim()}" ... "${end.trim()}"`)
  if (text.slice(from, to) === table) return
  if (!process.env.INTEROP_UPDATE) {
    const actual = text.slice(from, to).split('\n')
    const at = table.split('\n').findIndex((line, i) => line !== actual[i])
    throw new Error(`it should have: ${table.split('\n')[at]} (run.sh --update writes it)`)
  }
  writeFileSync(path, text.slice(0, from) + table + text.slice(to))
  console.log(`     updated docs/PARQUET.md`)
}
