// Peers of the published libraries in headless Chromium, one tab each. Speaks JSON lines; see README.md.
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { chromium } from 'playwright-core'
import { emit, serve } from './lines.js'

const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
// Chromium hides its host addresses behind mDNS names unless it is told not to.
const plainAddresses = '--disable-features=WebRtcHideLocalIpsWithMdns'

const bundled = await build({
  entryPoints: [fileURLToPath(new URL('page.js', import.meta.url))],
  bundle: true,
  write: false,
  define: { global: 'window' },
})
const page = `<!doctype html><title>peer</title><script>${bundled.outputFiles[0].text.replaceAll('</script', '<\\/script')}</script>`
// Answered in the browser itself: a server would be one more thing that can be slow or hang up at the wrong moment.
const origin = `http://browser-${process.pid}.localhost`

const running = await chromium.launchServer({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: process.argv.includes('--mdns') ? flags : [...flags, plainAddresses],
})
const browser = await chromium.connect(running.wsEndpoint())
const tabs = new Map()

async function start(options) {
  // A page from nowhere may reach this machine only when its user has allowed it to.
  const context = await browser.newContext({ permissions: ['local-network-access'] })
  const tab = await context.newPage()
  await tab.exposeFunction('emitToDriver', emit)
  tab.on('pageerror', (error) => emit({ event: 'error', peer: options.peer, message: String(error) }))
  await tab.route(`${origin}/**`, (route) => route.fulfill({ contentType: 'text/html', body: page }))
  await tab.goto(origin)
  await tab.evaluate((given) => window.startPeer(given), options)
  tabs.set(options.peer, tab)
}

// The browser leads a process group of its own, in which all its processes are.
emit({ event: 'up', origin, group: running.process().pid })
await serve(async (command) => {
  if (command.cmd === 'start') return start(command)
  const tab = tabs.get(command.peer)
  if (command.cmd === 'closeTab') return tab.context().close()
  await tab.evaluate((given) => window.peer.run(given), command)
})
await running.close()
process.exit()
