// Peers of the published libraries in Node, on @roamhq/wrtc. Speaks JSON lines; see README.md.
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { WebSocket } from 'ws'
import { emit, serve } from './lines.js'
import { OriginalPeer } from './peer.js'

const require = createRequire(import.meta.url)
const swarms = {
  1: require('fast-rtc-swarm-1').default,
  2: require('fast-rtc-swarm-2').default,
}
const host = {
  WebSocket,
  wrtc: require('@roamhq/wrtc'),
  sha256: (bytes) => createHash('sha256').update(bytes).digest('hex'),
  emit,
}

// The libraries leave promises unhandled (an answer for a connection that has closed): news for the test, not an end.
process.on('unhandledRejection', (error) => emit({ event: 'error', message: String(error) }))
process.on('uncaughtException', (error) => emit({ event: 'error', message: String(error) }))

const peers = new Map()
emit({ event: 'up' })
await serve((command) => {
  if (command.cmd !== 'start') return peers.get(command.peer).run(command)
  peers.set(command.peer, new OriginalPeer(host, swarms[command.generation], command))
})
process.exit()
