// Package control is the door to a running node: HTTP over a Unix socket in
// its data directory, so that whoever may read the directory, and nobody
// else, may ask.
//
//	GET  /status   the node's status, JSON
//	GET  /runs     the runs that it has heard of, JSON
//	GET  /metrics  counters, Prometheus' text format
//	POST /leave    leave the run and exit; answers before it is done
//
// The same handler may also be served on loopback TCP for a scraper.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Socket is the name of the socket in a node's data directory.
const Socket = "shoal.sock"

// maxReply bounds what a client reads of one answer, in bytes.
const maxReply = 16 << 20

// ErrNotRunning says that no node serves the directory.
var ErrNotRunning = errors.New("no node is running")

// A Handler answers what the socket is asked. Values are encoded as JSON. All
// fields but Status may be nil.
type Handler struct {
	Status  func() any
	Runs    func() any
	Metrics http.Handler
	Leave   func() // must not block
}

// Mux returns the handler's routes.
func (h Handler) Mux() *http.ServeMux {
	mux := http.NewServeMux()
	give := func(path string, f func() any) {
		if f == nil {
			return
		}
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			// The client may be gone: there is nobody to tell.
			_ = json.NewEncoder(w).Encode(f())
		})
	}
	give("/status", h.Status)
	give("/runs", h.Runs)
	if h.Metrics != nil {
		mux.Handle("GET /metrics", h.Metrics)
	}
	if h.Leave != nil {
		mux.HandleFunc("POST /leave", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			h.Leave()
		})
	}
	return mux
}

// Serve listens on dir's socket until ctx ends. A socket that a dead node left
// behind is replaced: the caller holds the directory's lock.
func Serve(ctx context.Context, dir string, h http.Handler) error {
	path, done, err := socketPath(dir)
	if err != nil {
		return err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("control socket: %w", err), ln.Close())
	}
	return ServeOn(ctx, ln, h)
}

// ServeOn serves h on ln until ctx ends, and closes ln.
func ServeOn(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		closed <- srv.Shutdown(drain)
	})
	err := srv.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) {
		<-closed // a client that will not hang up is no failure of ours
		return nil
	}
	stop()
	return fmt.Errorf("control socket: %w", err)
}

// A Client asks the node that serves a data directory.
type Client struct {
	dir  string
	http *http.Client
}

// Dial returns a client for the node of dir. Nothing is contacted yet.
func Dial(dir string) *Client {
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			path, done, err := socketPath(dir)
			if err != nil {
				return nil, err
			}
			defer done()
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	return &Client{dir, &http.Client{Transport: tr, Timeout: 10 * time.Second}}
}

// Get asks for path and decodes the JSON answer into v. It returns
// ErrNotRunning where nobody answers the socket.
func (c *Client) Get(ctx context.Context, path string, v any) error {
	b, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s of the node in %s: %w", path, c.dir, err)
	}
	return nil
}

// Leave asks the node to leave its run and exit.
func (c *Client) Leave(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, "/leave")
	return err
}

func (c *Client) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://shoal"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("%s of the node in %s: %w", path, c.dir, err)
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w with the data directory %s", ErrNotRunning, c.dir)
	case err != nil:
		return nil, fmt.Errorf("%s of the node in %s: %w", path, c.dir, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("%s of the node in %s: %w", path, c.dir, err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s of the node in %s: %s", path, c.dir, resp.Status)
	}
	return b, nil
}

// socketPath returns a name of dir's socket that fits into a sockaddr_un (108
// bytes on Linux, 104 elsewhere). A longer one is reached through an open
// descriptor of the directory, which done closes.
func socketPath(dir string) (path string, done func(), err error) {
	path = filepath.Join(dir, Socket)
	if len(path) < 100 {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, fmt.Errorf("control socket: %w", err)
	}
	short := filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), Socket)
	if _, err := os.Stat(filepath.Dir(short)); err != nil {
		d.Close()
		return "", nil, fmt.Errorf("control socket: the path %s is too long for a Unix socket: choose a shorter data directory", path)
	}
	return short, func() { d.Close() }, nil
}
