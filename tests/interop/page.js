// What runs in a tab: the libraries from the bundle, the browser's own WebSocket and WebRTC.
import Swarm1 from 'fast-rtc-swarm-1'
import Swarm2 from 'fast-rtc-swarm-2'
import { OriginalPeer } from './peer.js'

const swarms = { 1: Swarm1.default ?? Swarm1, 2: Swarm2.default ?? Swarm2 }
const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join('')
const host = {
  WebSocket,
  wrtc: window,
  sha256: async (bytes) => hex(await crypto.subtle.digest('SHA-256', bytes)),
  emit: (event) => window.emitToDriver(event),
}

window.startPeer = (options) => {
  window.peer = new OriginalPeer(host, swarms[options.generation], options)
}
