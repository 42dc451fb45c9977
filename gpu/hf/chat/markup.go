package chat

import (
	"errors"
	"fmt"
	"html"
	"strings"
)

// markup adds the filters that Jinja has for web pages and that do the same everywhere.
// Of Jinja's filters random is refused, since nobody could say what it gave, pprint and urlize,
// which lay values and pages out for people; of its tests escaped, which strings here do not know.
func markup() {
	filters["urlencode"] = func(e *eval, v any, _ args) (any, error) {
		if d, ok := v.(*dict); ok {
			p, err := e.pairs(d)
			if err != nil {
				return nil, err
			}
			v = p
		}
		l, ok := v.(*list)
		if !ok {
			s, err := e.str(v)
			if err != nil {
				return nil, err
			}
			return quoted(s, "/"), e.make(3 * len(s))
		}
		var b strings.Builder
		for i, x := range l.items {
			p, ok := x.(*list)
			if !ok || len(p.items) != 2 {
				return nil, errors.New("want pairs")
			}
			if i > 0 {
				b.WriteByte('&')
			}
			for k, part := range p.items {
				s, err := e.str(part)
				if err == nil {
					err = e.make(3*len(s) + 1)
				}
				if err != nil {
					return nil, err
				}
				if k > 0 {
					b.WriteByte('=')
				}
				b.WriteString(strings.ReplaceAll(quoted(s, ""), "%20", "+"))
			}
		}
		return b.String(), nil
	}
	filters["striptags"] = func(e *eval, v any, _ args) (any, error) {
		s, err := e.str(v)
		if err != nil {
			return nil, err
		}
		for _, m := range [][2]string{{"<!--", "-->"}, {"<", ">"}} { // comments first: there may be tags in them
			for {
				if err := e.make(len(s)); err != nil {
					return nil, err
				}
				start := strings.Index(s, m[0])
				if start < 0 {
					break
				}
				end := strings.Index(s[start:], m[1])
				if end < 0 {
					break
				}
				s = s[:start] + s[start+end+len(m[1]):]
			}
		}
		return html.UnescapeString(strings.Join(strings.FieldsFunc(s, blank), " ")), nil
	}
	filters["filesizeformat"] = func(e *eval, v any, a args) (any, error) {
		f, ok := float(v)
		if s, isText := v.(string); isText {
			f, ok = parseFloat(strings.TrimFunc(s, blank))
		}
		if !ok {
			return nil, fmt.Errorf("of %s", kindOf(v))
		}
		base, units := 1000.0, [8]string{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
		if truth(a.get(0, "binary", false)) {
			base, units = 1024, [8]string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}
		}
		switch {
		case f == 1:
			return "1 Byte", nil
		case f < base:
			return fmt.Sprintf("%d Bytes", int64(f)), nil
		}
		unit, i := base*base, 0
		for ; i+1 < len(units) && !(f < unit); i++ {
			unit *= base
		}
		return fmt.Sprintf("%.1f %s", base*f/unit, units[i]), nil
	}
	filters["xmlattr"] = func(e *eval, v any, a args) (any, error) {
		d, ok := v.(*dict)
		if !ok {
			return nil, fmt.Errorf("of %s", kindOf(v))
		}
		var b strings.Builder
		for i, k := range d.keys {
			x := d.values[i]
			if _, gone := x.(undefined); gone || x == nil {
				continue
			}
			name, err := e.str(k)
			if err != nil {
				return nil, err
			}
			if strings.ContainsAny(name, " \t\n\f\r/>=") {
				return nil, fmt.Errorf("%.40q is no name of an attribute", name)
			}
			value, err := e.str(x)
			if err == nil {
				err = e.make(6*(len(name)+len(value)) + 4)
			}
			if err != nil {
				return nil, err
			}
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, `%s="%s"`, escape(name), escape(value))
		}
		if s := b.String(); s != "" && truth(a.get(0, "autospace", true)) {
			return " " + s, nil
		}
		return b.String(), nil
	}
}

// quoted is Python's urllib.parse.quote.
func quoted(s, safe string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || strings.IndexByte("_.-~"+safe, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
