// A signaling server that knows the second generation's messages and nothing else. It recognises whether a client wraps them; with
// --wrapped it is a host that wraps always, and hears nothing else. Prints { event: 'listening', url } and then each message it got that it does not know.
import { WebSocketServer } from 'ws'
import { emit, serve } from './lines.js'

const always = process.argv.includes('--wrapped')
const rooms = new Map()
// Connection id -> the offer's owner, the member who took it, and the signals kept until somebody takes it.
const links = new Map()

class Member {
  constructor(socket) {
    this.socket = socket
    this.offers = []
    this.waiting = []
  }

  say(signal) {
    const message = this.wrapped ? { type: 'WRTC_SIGNAL', signal } : signal
    this.socket.send(JSON.stringify(message))
  }

  hear(message) {
    this.wrapped ??= always || message.type === 'WRTC_SIGNAL'
    const signal = this.wrapped ? message.signal : message
    if (!signal) return emit({ event: 'unwrapped', type: message.type })
    switch (signal.type) {
      case 'init':
        return this.#join(signal)
      case 'offer':
        return this.#offer(signal)
      case 'answer':
      case 'candidate':
        return this.#relay(signal)
      case 'close':
        return this.leave()
      default:
        emit({ event: 'unknown', type: signal.type })
        return this.say({ type: 'signal_error', message: `unknown type ${signal.type}` })
    }
  }

  #join({ userId, roomId }) {
    this.userId = userId
    this.room = rooms.get(roomId) ?? new Set()
    rooms.set(roomId, this.room)
    for (const owner of this.room) owner.#give(this)
    this.room.add(this)
  }

  #give(newcomer) {
    const id = this.offers.shift()
    if (id === undefined) return this.waiting.push(newcomer)
    const link = links.get(id)
    link.taker = newcomer
    newcomer.say({ type: 'accept', id, userId: this.userId, signals: link.signals })
    this.say({ type: 'offerAccepted', id, userId: newcomer.userId })
    this.say({ type: 'offerRequest' })
  }

  #offer(signal) {
    if (links.has(signal.id)) return this.#relay(signal)
    const { id, ...offer } = signal
    links.set(id, { owner: this, signals: [offer] })
    this.offers.push(id)
    const newcomer = this.waiting.shift()
    if (newcomer) this.#give(newcomer)
  }

  #relay(signal) {
    const link = links.get(signal.id)
    if (!link) return
    const { id, ...kept } = signal
    if (!link.taker) return link.signals.push(kept)
    const other = link.owner === this ? link.taker : link.owner
    other.say(signal)
  }

  leave() {
    this.room?.delete(this)
    for (const member of this.room ?? []) member.waiting = member.waiting.filter((newcomer) => newcomer !== this)
    for (const [id, { owner, taker }] of links) {
      if (owner !== this && taker !== this) continue
      links.delete(id)
      const other = owner === this ? taker : owner
      other?.say({ type: 'leaveSwarm', id })
    }
  }
}

const server = new WebSocketServer({ host: '127.0.0.1', port: 0 })
server.on('connection', (socket) => {
  const member = new Member(socket)
  socket.on('message', (text) => member.hear(JSON.parse(text)))
  socket.on('close', () => member.leave())
})
await new Promise((listening) => server.on('listening', listening))
emit({ event: 'listening', url: `ws://127.0.0.1:${server.address().port}` })
await serve(() => {})
process.exit()
