// JSON lines: one event a line on stdout, one command a line on stdin.
import { createInterface } from 'node:readline'

export const emit = (event) => process.stdout.write(`${JSON.stringify(event)}\n`)

// Runs each command in turn; ends the process when stdin ends, so that nothing outlives a test that died.
export async function serve(run) {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    try {
      await run(command)
    } catch (error) {
      emit({ event: 'failed', cmd: command.cmd, peer: command.peer, message: String(error) })
    }
  }
}
