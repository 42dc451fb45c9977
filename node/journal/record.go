package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

var (
	fileMagic  = [8]byte{'S', 'H', 'W', 'A', 'L', 0, 1, 0}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// frameSize is the length of what precedes a record's type.
const frameSize = 12

// appendRecords appends the bytes of records to b, which begins at offset base of the file.
func appendRecords(b []byte, base int64, records []Record) ([]byte, error) {
	for i, r := range records {
		if r.Type == 0 {
			return nil, fmt.Errorf("record %d has type 0", i)
		}
		if len(r.Data) > MaxRecord {
			return nil, fmt.Errorf("record %d of %d bytes is over the limit of %d", i, len(r.Data), MaxRecord)
		}
		at := base + int64(len(b))
		sum := crc32.Update(crc32.Update(0, castagnoli, []byte{r.Type}), castagnoli, r.Data)
		b = binary.LittleEndian.AppendUint32(b, uint32(1+len(r.Data)))
		b = binary.LittleEndian.AppendUint32(b, sum)
		b = binary.LittleEndian.AppendUint32(b, frameSum(at, b[len(b)-8:]))
		b = append(b, r.Type)
		b = append(b, r.Data...)
	}
	return b, nil
}

// frameSum is the checksum of a frame's first 8 bytes at the given offset of the file.
func frameSum(at int64, head []byte) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(at))
	copy(b[8:], head[:8])
	return crc32.Checksum(b[:], castagnoli)
}

// frameAt returns the length of type and data of a record at offset at of the file b, if
// there is a whole and valid frame whose record may yet be cut short or damaged.
func frameAt(b []byte, at int64) (n int64, ok bool) {
	if int64(len(b))-at < frameSize {
		return 0, false
	}
	h := b[at : at+frameSize]
	n = int64(binary.LittleEndian.Uint32(h))
	if n < 1 || n > MaxRecord+1 || binary.LittleEndian.Uint32(h[8:]) != frameSum(at, h) {
		return 0, false
	}
	return n, true
}

// recordAt returns the record at offset at of the file b and the offset after it.
// Its data is part of b.
func recordAt(b []byte, at int64) (r Record, next int64, ok bool) {
	n, ok := frameAt(b, at)
	if !ok || int64(len(b))-at-frameSize < n {
		return Record{}, 0, false
	}
	next = at + frameSize + n
	body := b[at+frameSize : next]
	if body[0] == 0 || crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[at+4:]) {
		return Record{}, 0, false
	}
	return Record{body[0], body[1:]}, next, true
}

// scanned is what a file holds.
type scanned struct {
	records []Record
	end     int64    // where the records that can be trusted end
	damaged bool     // what follows end is not just an unfinished append
	after   []Record // if damaged: readable records behind the damage
}

// scan reads the file b. Records share its memory.
func scan(b []byte) scanned {
	var s scanned
	if len(b) < len(fileMagic) || [8]byte(b) != fileMagic {
		// The file was put in place whole: this is no torn write.
		s.damaged = true
		s.after = salvage(b, 0)
		return s
	}
	s.end = int64(len(fileMagic))
	for s.end < int64(len(b)) {
		r, next, ok := recordAt(b, s.end)
		if !ok {
			if !torn(b, s.end) {
				s.damaged = true
				s.after = salvage(b, s.end+1)
			}
			return s
		}
		s.records = append(s.records, r)
		s.end = next
	}
	return s
}

// torn reports whether the rest of b from at on is what an unfinished append leaves: a
// record cut short by the end of the file, or nothing but zeros.
func torn(b []byte, at int64) bool {
	rest := b[at:]
	if len(rest) < frameSize {
		return true
	}
	if n, ok := frameAt(b, at); ok {
		return int64(len(rest))-frameSize < n
	}
	for _, x := range rest {
		if x != 0 {
			return false
		}
	}
	return true
}

// salvage collects the valid records of b at or after at.
func salvage(b []byte, at int64) []Record {
	var out []Record
	for at < int64(len(b)) {
		r, next, ok := recordAt(b, at)
		if !ok {
			at++
			continue
		}
		out = append(out, r)
		at = next
	}
	return out
}
