package testnet

import (
	"embed"
	"io/fs"
)

// DemoConfig is the name of the demo's configuration in Demo.
const DemoConfig = "demo.yaml"

//go:embed demo/demo.yaml demo/run.yaml demo/moby-dick.txt
var demoFiles embed.FS

// Demo holds what `make demo` runs: four peers that train on Moby-Dick while
// one of them is killed and another joins.
func Demo() fs.FS {
	sub, err := fs.Sub(demoFiles, "demo")
	if err != nil { // cannot happen: the name is valid
		return demoFiles
	}
	return sub
}
