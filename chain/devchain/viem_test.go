package devchain

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
)

// viem, a client that shares no code with ours, reads the chain and pays on it.
func TestViem(t *testing.T) {
	dir := ""
	for _, d := range []string{os.Getenv("SHOAL_NODE_MODULES"), "../contracts"} {
		if _, err := os.Stat(filepath.Join(d, "node_modules/viem")); d != "" && err == nil {
			dir = d
		}
	}
	if dir == "" {
		t.Skip("SKIPPED: the dev chain was NOT asked by viem: `npm install` in chain/contracts or set SHOAL_NODE_MODULES")
	}
	c, err := Start(t.Context(), Options{Dir: t.TempDir(), Funded: []common.Address{testAddress}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	cmd := exec.CommandContext(t.Context(), "node", "-e", `
const {createWalletClient, createPublicClient, http, defineChain, parseEther} = require("viem");
const {privateKeyToAccount} = require("viem/accounts");
const chain = defineChain({id: 31338, name: "dev", nativeCurrency: {name: "E", symbol: "E", decimals: 18}, rpcUrls: {default: {http: [process.argv[1]]}}});
const account = privateKeyToAccount("0xb71c71a67e1177ad4e901695e1b4b9ee17ae16c6668d313eac2f96dbcda3f291");
(async () => {
  const pub = createPublicClient({chain, transport: http(), pollingInterval: 200}), wallet = createWalletClient({account, chain, transport: http()});
  const to = "0x00000000000000000000000000000000000000aa";
  const hash = await wallet.sendTransaction({to, value: parseEther("1.5")});
  let r;
  while (!r) {
    // On a busy machine geth still indexes the block when it is asked, and says so; viem gives up on that.
    r = await pub.waitForTransactionReceipt({hash}).catch(e => { if (!String(e).includes("indexing is in progress")) throw e });
  }
  console.log(await pub.getChainId(), r.status, await pub.getBalance({address: to}));
})();`, c.URL)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "31338 success 1500000000000000000n" {
		t.Fatalf("%s, %v", got, err)
	}
}
