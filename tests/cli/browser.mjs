// browser.mjs - opens a page in headless Chromium and prints what a test asks of it, as JSON.
//
//   node browser.mjs CHROMIUM FILE.html [SCREENSHOT.png [WIDTH HEIGHT [dark [Y]]]]
//
// {"title", "rows", "figures", "problems": [console errors, exceptions, violations of the
// policy], "requests": [what it asked for but for itself], "sorted": names after a click on a
// heading, "found": names left by a search for the last in capitals, "dark" and "light":
// colours of text and background, "elements": kinds of them, "overflow": wider than the page}
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const [program, file, screenshot, width = '1280', height = '900', scheme, top = '0'] =
  process.argv.slice(2)
const profile = mkdtempSync(join(tmpdir(), 'aq-browser-'))
const browser = spawn(program, ['--headless', '--no-sandbox', '--disable-gpu',
  '--disable-dev-shm-usage', '--no-first-run', '--disable-background-networking',
  '--remote-debugging-pipe', `--user-data-dir=${profile}`, 'about:blank'],
{ stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] })

// The DevTools protocol on two pipes: messages end with a NUL.
let last = 0, rest = ''
const waiting = new Map(), listeners = []
browser.stdio[4].on('data', data => {
  const messages = (rest + data).split('\0')
  rest = messages.pop()
  for (const text of messages) {
    const message = JSON.parse(text)
    if (message.id !== undefined) {
      const { done, failed } = waiting.get(message.id)
      waiting.delete(message.id)
      if (message.error) failed(new Error(message.error.message))
      else done(message.result)
    }
    for (const listener of listeners) listener(message)
  }
})
const call = (method, params = {}, sessionId = undefined) => new Promise((done, failed) => {
  waiting.set(++last, { done, failed })
  browser.stdio[3].write(JSON.stringify({ id: last, method, params, sessionId }) + '\0')
})
const give_up = why => {
  console.error(`browser.mjs: ${why}`)
  browser.kill('SIGKILL')
  rmSync(profile, { recursive: true, force: true })
  process.exit(3)
}
browser.on('error', () => give_up(`cannot start ${program}`))
browser.on('exit', code => give_up(`the browser ended early (${code})`))
setTimeout(() => give_up('no answer in 60 s'), 60000)

const { targetId } = await call('Target.createTarget', { url: 'about:blank' })
const { sessionId } = await call('Target.attachToTarget', { targetId, flatten: true })
const page = (method, params) => call(method, params, sessionId)
const evaluate = async expression =>
  (await page('Runtime.evaluate', { expression, returnByValue: true })).result.value

const url = pathToFileURL(resolve(file)).href
const problems = [], requests = []
let loaded
const load = new Promise(done => { loaded = done })
listeners.push(({ method, params }) => {
  if (method === 'Runtime.exceptionThrown')
    problems.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text)
  if (method === 'Runtime.consoleAPICalled')
    problems.push(`console.${params.type}: ${params.args.map(a => a.value).join(' ')}`)
  if (method === 'Log.entryAdded') problems.push(params.entry.text)
  if (method === 'Network.requestWillBeSent' && params.request.url !== url &&
      !params.request.url.startsWith('data:'))
    requests.push(params.request.url)
  if (method === 'Page.loadEventFired') loaded()
})
for (const domain of ['Runtime', 'Log', 'Network', 'Page']) await page(`${domain}.enable`)
await page('Emulation.setDeviceMetricsOverride',
  { width: Number(width), height: Number(height), deviceScaleFactor: 1, mobile: false })
const prefer = value => page('Emulation.setEmulatedMedia',
  { features: [{ name: 'prefers-color-scheme', value }] })
const colours = () => evaluate(`(() => {
  const style = getComputedStyle(document.body)
  return [style.color, style.backgroundColor]
})()`)
await page('Page.navigate', { url })
await load

const facts = { title: await evaluate('document.title'), problems, requests }
facts.rows = await evaluate(`document.querySelectorAll('#tensors tbody tr').length`)
facts.figures = await evaluate(`document.querySelectorAll('#figures .card').length`)
facts.scripts = await evaluate('document.scripts.length')
facts.elements = await evaluate(
  `[...new Set([...document.body.querySelectorAll('main *')].map(e => e.localName))].sort()`)
facts.overflow = await evaluate(
  'document.documentElement.scrollWidth > document.documentElement.clientWidth')
const names = `[...document.querySelectorAll('#tensors tbody tr')]
  .filter(row => !row.hidden).map(row => row.cells[0].textContent)`
facts.names = await evaluate(names)
facts.sorted = {}
for (const heading of ['dtype', 'dtype', 'SQNR', 'bytes', 'name']) { // dtype: last first
  await evaluate(`[...document.querySelectorAll('#tensors button')]
    .find(button => button.textContent === '${heading}').click()`)
  facts.sorted[heading] = await evaluate(names)
}
await evaluate(`(() => {
  const find = document.getElementById('find')
  find.value = ${JSON.stringify(facts.names.at(-1).toUpperCase())}
  find.dispatchEvent(new Event('input'))
})()`)
facts.found = await evaluate(names)
await evaluate(`(() => {
  const find = document.getElementById('find')
  find.value = ''
  find.dispatchEvent(new Event('input'))
})()`)
await prefer('light')
facts.light = await colours()
await prefer('dark')
facts.dark = await colours()
if (screenshot) {
  await prefer(scheme === 'dark' ? 'dark' : 'light')
  await evaluate(`window.scrollTo(0, ${Number(top)})`)
  const { data } = await page('Page.captureScreenshot', { format: 'png' })
  writeFileSync(screenshot, Buffer.from(data, 'base64'))
}
// What the page does late shows up too.
await new Promise(done => setTimeout(done, 300))
console.log(JSON.stringify(facts))
browser.removeAllListeners('exit')
const ended = new Promise(done => browser.on('exit', done))
await Promise.race([call('Browser.close').catch(() => {}), ended])
await ended
rmSync(profile, { recursive: true, force: true })
process.exit(0)
