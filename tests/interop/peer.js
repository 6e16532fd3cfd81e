// One peer of a published library, the same in Node and in a page: a WebSocket in front, events out, commands in.
// `host` is { WebSocket, wrtc, sha256(bytes) -> hex, emit(event) }; `Swarm` is the class that the package exports.

const names = {
  1: { open: 'dataOpen', close: 'dataClose' },
  2: { open: 'open', close: 'close' },
}

// Byte i of a binary message. The test computes the same, so a hash proves that a message arrived whole.
const patterned = (len) => Uint8Array.from({ length: len }, (_, i) => (i * 31 + (i >> 8) * 17) & 255)

export class OriginalPeer {
  constructor(host, Swarm, options) {
    this.host = host
    this.Swarm = Swarm
    this.options = options
    this.open = new Map()
    this.events = Promise.resolve()
    this.held = []
    this.socket = new host.WebSocket(options.url)
    this.socket.onopen = () => this.#join()
    this.socket.onmessage = ({ data }) => this.#dispatch(JSON.parse(data))
    this.socket.onclose = ({ code, reason }) => this.#emit('socketClosed', { code, reason })
    this.socket.onerror = () => {}
  }

  run({ cmd, ...rest }) {
    switch (cmd) {
      case 'send':
        return this.#send(rest.to, rest.text)
      case 'sendBytes':
        return this.#send(rest.to, patterned(rest.len))
      case 'broadcast':
        return this.swarm.broadcast(rest.text)
      case 'signal':
        return this.#signal(rest.signal)
      case 'close':
        return this.swarm.close()
      case 'hangUp':
        return this.socket.close()
      default:
        throw new Error(`no command is called ${cmd}`)
    }
  }

  #join() {
    const { generation, id, room, lateInit } = this.options
    const config = {
      1: { id, iceServers: [] },
      2: { userId: id, roomId: room, rtcConfig: { iceServers: [] } },
    }[generation]
    this.held = lateInit ? [] : null
    this.swarm = new this.Swarm({ ...config, wrtc: this.#watched(this.host.wrtc) })
    this.swarm.on('signal', (signal) => this.#hold(signal))
    this.swarm.on(names[generation].open, (peer) => {
      this.open.set(this.#nameOf(peer), peer)
      this.#emit('open', { from: this.#nameOf(peer) })
    })
    this.swarm.on(names[generation].close, (peer) => {
      if (this.open.delete(this.#nameOf(peer))) this.#emit('close', { from: this.#nameOf(peer) })
    })
    this.swarm.on('data', (data, peer) => this.#data(data, this.#nameOf(peer)))
    this.swarm.on('error', (error) => this.#emit('error', { message: String(error) }))
    this.#emit('connected')
  }

  // The library sends `init` on a timer, so that an offer and its candidates may overtake it. `lateInit` makes this certain.
  #hold(signal) {
    if (this.held === null) return this.#signal(signal)
    this.held.push(signal)
    if (signal.type !== 'candidate') return
    const [init, others] = [this.held.filter(isInit), this.held.filter((held) => !isInit(held))]
    this.held = null
    for (const each of [...others, ...init]) this.#signal(each)
  }

  #signal(signal) {
    const message = this.options.wrapped ? { type: 'WRTC_SIGNAL', signal } : signal
    this.socket.send(JSON.stringify(message))
  }

  #dispatch(message) {
    const signal = this.options.wrapped ? message.signal : message
    const { type, id, from, code, message: text } = signal
    this.#emit('signal', { type, id, from, code, message: text })
    try {
      this.swarm.dispatch(signal)
    } catch (error) {
      this.#emit('error', { message: String(error) })
    }
  }

  #send(to, data) {
    const receivers = to === undefined ? [...this.open.values()] : [this.open.get(to)]
    for (const peer of receivers) peer.send(data)
  }

  #data(data, from) {
    this.#emit('data', typeof data === 'string' ? { from, text: data } : this.#digest(data, from))
  }

  async #digest(data, from) {
    const bytes = new Uint8Array(data instanceof ArrayBuffer ? data : await data.arrayBuffer())
    return { from, len: bytes.length, sha256: await this.host.sha256(bytes) }
  }

  // A first generation peer is called by its user, a second generation peer by its connection.
  #nameOf(peer) {
    return this.options.generation === 1 ? peer.id : peer.userId
  }

  // Tells of every channel that the other side opens, also of those that the library ignores, and of broken paths.
  #watched(wrtc) {
    const peer = this
    class RTCPeerConnection extends wrtc.RTCPeerConnection {
      constructor(config) {
        super(config)
        this.addEventListener('datachannel', ({ channel }) => peer.#emit('channel', { label: channel.label }))
        this.addEventListener('iceconnectionstatechange', () => {
          const state = this.iceConnectionState
          if (['disconnected', 'failed'].includes(state)) peer.#emit('ice', { state })
        })
      }
    }
    const { RTCSessionDescription, RTCIceCandidate } = wrtc
    return { RTCPeerConnection, RTCSessionDescription, RTCIceCandidate }
  }

  // What an event says may be a promise (a hash); events keep their order all the same.
  #emit(event, fields = {}) {
    this.events = this.events.then(async () => {
      this.host.emit({ event, peer: this.options.peer, ms: Math.round(performance.now()), ...(await fields) })
    })
  }
}

const isInit = (signal) => signal.type === 'init'
