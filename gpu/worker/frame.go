package worker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A link reads and writes messages. Reading and writing may go on at the same
// time, each by one goroutine.
type link struct {
	r    *bufio.Reader
	left int  // bytes of the frame's part that are not read
	more bool // the message goes on in another frame
	err  error

	w   *bufio.Writer
	buf []byte // of a part that is being written
}

func newLink(r io.Reader, w io.Writer) *link {
	return &link{r: bufio.NewReaderSize(r, 1<<16), w: bufio.NewWriterSize(w, 1<<16)}
}

// next reads the frame header that follows and its head, which it returns.
func (l *link) next(first bool) ([]byte, error) {
	var b [frame]byte
	if _, err := io.ReadFull(l.r, b[:1]); err != nil {
		return nil, err // io.EOF between messages is an end like any other
	}
	if _, err := io.ReadFull(l.r, b[1:]); err != nil {
		return nil, noEOF(err)
	}
	h, p, flags := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	switch {
	case string(b[:3]) != magic[:3]:
		return nil, fmt.Errorf("%w: a frame begins with %q", ErrProtocol, b[:4])
	case b[3] != magic[3]:
		return nil, fmt.Errorf("%w: version %q, this program speaks %q", ErrProtocol, b[3], magic[3])
	case h > maxHead || p > maxPart || flags > more|broken || flags == more|broken:
		return nil, fmt.Errorf("%w: frame of %d and %d bytes with flags %d", ErrProtocol, h, p, flags)
	case first != (h > 0):
		return nil, fmt.Errorf("%w: a head of %d bytes out of place", ErrProtocol, h)
	case flags == more && p == 0:
		return nil, fmt.Errorf("%w: an empty frame that is not the last", ErrProtocol)
	}
	text := make([]byte, h)
	if _, err := io.ReadFull(l.r, text); err != nil {
		return nil, noEOF(err)
	}
	l.left, l.more = int(p), flags == more
	if flags == broken {
		why := make([]byte, min(p, maxWhy))
		if _, err := io.ReadFull(l.r, why); err != nil {
			return nil, noEOF(err)
		}
		if _, err := io.CopyN(io.Discard, l.r, int64(p)-int64(len(why))); err != nil {
			return nil, noEOF(err)
		}
		l.left = 0
		return text, fmt.Errorf("%w: %s", errBroken, why)
	}
	return text, nil
}

const maxWhy = 2048 // bytes of a reason that are kept

var errBroken = errors.New("the message was broken off by its sender")

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// receive reads the head of the next message. Its body is what Read then gives,
// and must be read to its end, or dropped, before the next.
func (l *link) receive(h *head) error {
	l.err = nil
	text, err := l.next(true)
	if errors.Is(err, errBroken) {
		l.err = err
	} else if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(h); err != nil {
		return fmt.Errorf("%w: head: %w", ErrProtocol, err)
	}
	return nil
}

// Read gives the body of the message that receive began.
func (l *link) Read(p []byte) (int, error) {
	for l.left == 0 {
		if l.err != nil || !l.more {
			if l.err == nil {
				l.err = io.EOF
			}
			return 0, l.err
		}
		if _, err := l.next(false); err != nil {
			l.err, l.more = noEOF(err), false
			return 0, l.err
		}
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	if err != nil {
		l.err, l.more, l.left = noEOF(err), false, 0
	}
	return n, l.err
}

// drop reads what is left of the body. It fails where the link does.
func (l *link) drop() error {
	_, err := io.Copy(io.Discard, l)
	if errors.Is(err, errBroken) {
		return nil
	}
	return err
}

// send writes one message. Where body, which may be nil, fails, the message is
// broken off with the reason, which is own, and the link goes on.
func (l *link) send(h *head, body func(io.Writer) error) (own, err error) {
	text, err := json.Marshal(h)
	if err != nil {
		return err, nil
	}
	if len(text) > maxHead {
		return fmt.Errorf("head of %d bytes, at most %d", len(text), maxHead), nil
	}
	out := &part{l: l, text: text}
	l.buf = l.buf[:0]
	if body != nil {
		if own = body(out); out.err != nil {
			return nil, out.err
		}
	}
	if own == nil {
		return nil, out.end(0)
	}
	l.buf = append(l.buf[:0], own.Error()...)
	l.buf = l.buf[:min(len(l.buf), maxWhy)]
	return own, out.end(broken)
}

// part cuts a body into frames.
type part struct {
	l    *link
	text []byte // the head, until it is written
	err  error  // the link's
}

func (p *part) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		if len(p.l.buf) == maxPart {
			if p.err = p.frame(more); p.err != nil {
				return n, p.err
			}
		}
		k := min(len(b), maxPart-len(p.l.buf))
		p.l.buf = append(p.l.buf, b[:k]...)
		b, n = b[k:], n+k
	}
	return n, nil
}

func (p *part) frame(flags uint32) error {
	var b [frame]byte
	copy(b[:], magic)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(p.text)))
	binary.LittleEndian.PutUint32(b[8:], uint32(len(p.l.buf)))
	binary.LittleEndian.PutUint32(b[12:], flags)
	for _, x := range [][]byte{b[:], p.text, p.l.buf} {
		if _, err := p.l.w.Write(x); err != nil {
			return err
		}
	}
	p.text, p.l.buf = nil, p.l.buf[:0]
	return nil
}

func (p *part) end(flags uint32) error {
	if err := p.frame(flags); err != nil {
		return err
	}
	return p.l.w.Flush()
}
