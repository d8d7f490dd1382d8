// memjs (binary) and memcached (text), each with its own defaults. `fill` stores, `check` fetches what was stored before.
//
// usage: node clients.js memjs|memcached fill|check HOST:PORT

const { deepStrictEqual: same, ok } = require('node:assert')
const { promisify } = require('node:util')

const [library, step, address] = process.argv.slice(2)
const { [library]: module_ } = { [library]: require(library) }

// Repeatable bytes, every value among them.
function noise (seed, size) {
  const bytes = Buffer.alloc(size)
  for (let i = 0, state = seed + 1; i < size; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    bytes[i] = state >>> 16
  }
  return bytes
}

const SIZES = [1, 100, 4096, 65536, 65537, 200000, 500000]

const steps = {
  memjs: {
    async fill (client) {
      for (const size of SIZES) ok(await client.set(`m${size}`, noise(size, size), { expires: 0 }))
      ok(await client.add('a', '1', {}))
      ok(!await client.add('a', '2', {}))
      ok(await client.replace('a', '3', {}))
      ok(!await client.replace('absent', '3', {}))
      // Its prepend sends the opcode of append.
      ok(await client.append('a', '>'))
      same((await client.get('a')).value.toString(), '3>')
      same((await client.increment('n', 5, { initial: 10 })).value, 10)
      same((await client.increment('n', 5, {})).value, 15)
      same((await client.decrement('n', 20, {})).value, 0)
      ok(await client.touch('a', 1000))
      ok(await client.delete('a') && !await client.delete('a'))
      same((await client.get('a')).value, null)
      const wanted = Array.from({ length: 300 }, (_, i) => i)
      await Promise.all(wanted.map(i => client.set(`p${i}`, `${i}`, {})))
      same(await Promise.all(wanted.map(async i => Number((await client.get(`p${i}`)).value))), wanted)
    },
    async check (client) {
      for (const size of SIZES) ok((await client.get(`m${size}`)).value.equals(noise(size, size)), `m${size}`)
    },
    connect: () => module_.Client.create(address),
    end: client => client.close()
  },
  memcached: {
    async fill (client) {
      for (const size of SIZES) ok(await client.set(`t${size}`, noise(size, size), 0))
      ok(await client.set('object', { one: [1, 'два', null] }, 0))
      ok(await client.set('number', 2 ** 40, 0))
      ok(await client.add('a', '1', 0))
      await client.add('a', '2', 0).then(() => ok(false), error => ok(/not stored/i.test(error.message)))
      ok(await client.replace('a', '3', 0) && await client.append('a', '>') && await client.prepend('a', '<'))
      same(await client.get('a'), '<3>')
      const { cas } = await client.gets('a')
      ok(await client.cas('a', '4', cas, 0) && !await client.cas('a', '5', cas, 0))
      ok(await client.set('n', 10, 0))
      same([await client.incr('n', 5), await client.decr('n', 20)], [15, 0])
      ok(await client.touch('a', 1000))
      same(await client.getMulti(['a', 'number', 'absent']), { a: '4', number: 2 ** 40 })
      ok(await client.del('a'))
      same(await client.get('a'), undefined)
      ok((await client.stats())[0].curr_items > 0 && (await client.settings())[0].maxconns > 0)
    },
    async check (client) {
      for (const size of SIZES) ok((await client.get(`t${size}`)).equals(noise(size, size)), `t${size}`)
      same(await client.get('object'), { one: [1, 'два', null] })
      same(await client.get('number'), 2 ** 40)
    },
    connect () {
      const client = new module_(address)
      const names = ['set', 'add', 'replace', 'append', 'prepend', 'get', 'gets', 'cas', 'incr', 'decr', 'touch', 'getMulti', 'del', 'stats', 'settings']
      const promises = Object.fromEntries(names.map(name => [name, promisify(client[name]).bind(client)]))
      return { ...promises, end: () => client.end() }
    },
    end: client => client.end()
  }
}[library]

async function main () {
  const client = steps.connect()
  await steps[step](client)
  steps.end(client)
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
