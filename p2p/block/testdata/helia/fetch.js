// Fetches a UnixFS directory from one peer with Helia and writes its files.
//
//   node fetch.js MULTIADDR CID OUTDIR [secp256k1 | Ed25519]
//
// It knows nothing of Shoal: it speaks Bitswap over TCP, Noise and yamux.

import { mkdir, open } from 'node:fs/promises'
import { join } from 'node:path'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'

const [addr, root, out, keyType = 'secp256k1'] = process.argv.slice(2)

const helia = await withBitswap(withLibp2pLight(createHeliaLight(), {
  privateKey: await generateKeyPair(keyType),
  addresses: { listen: [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
})).start()

const began = Date.now()
let bytes = 0
try {
  await helia.libp2p.dial(multiaddr(addr))
  const fs = unixfs(helia)
  await mkdir(out, { recursive: true })
  for await (const entry of fs.ls(CID.parse(root), { signal: AbortSignal.timeout(60_000) })) {
    const file = await open(join(out, entry.name), 'w')
    for await (const chunk of fs.cat(entry.cid, { signal: AbortSignal.timeout(60_000) })) {
      await file.write(chunk)
      bytes += chunk.length
    }
    await file.close()
  }
  console.log(`${bytes} bytes in ${Date.now() - began} ms`)
} finally {
  await helia.stop()
}
