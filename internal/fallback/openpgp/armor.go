package openpgp

import (
	"encoding/base64"
	"io"
)

// armorWriter writes a message in ASCII armor (RFC 9580, section 6.2) with
// CRLF. The library's writes few octets at a time, and takes longer than
// encryption.
type armorWriter struct {
	dst io.Writer
	buf []byte // less than whole lines
	out []byte
	crc uint32
}

const (
	lineOctets = 48 // which are 64 characters
	armorLines = 256
)

func newArmor(dst io.Writer) (*armorWriter, error) {
	_, err := io.WriteString(dst, "-----BEGIN PGP MESSAGE-----\r\n\r\n")
	return &armorWriter{dst: dst, buf: make([]byte, 0, armorLines*lineOctets), crc: 0xb704ce}, err
}

func (a *armorWriter) Write(p []byte) (int, error) {
	n := len(p)
	for _, c := range p {
		a.crc = a.crc<<8&0xffffff ^ crcTable[byte(a.crc>>16)^c]
	}
	for len(p) > 0 {
		part := p[:min(len(p), cap(a.buf)-len(a.buf))]
		a.buf = append(a.buf, part...)
		p = p[len(part):]
		if len(a.buf) == cap(a.buf) {
			if err := a.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// flush writes what is in buf, the last line of which may be short.
func (a *armorWriter) flush() error {
	a.out = a.out[:0]
	for rest := a.buf; len(rest) > 0; {
		line := rest[:min(len(rest), lineOctets)]
		rest = rest[len(line):]
		a.out = base64.StdEncoding.AppendEncode(a.out, line)
		a.out = append(a.out, '\r', '\n')
	}
	a.buf = a.buf[:0]
	_, err := a.dst.Write(a.out)
	return err
}

// close writes the rest, the checksum (older programs want one) and the end.
func (a *armorWriter) close() error {
	if err := a.flush(); err != nil {
		return err
	}
	sum := []byte{byte(a.crc >> 16), byte(a.crc >> 8), byte(a.crc)}
	_, err := io.WriteString(a.dst, "="+base64.StdEncoding.EncodeToString(sum)+"\r\n-----END PGP MESSAGE-----\r\n")
	return err
}

// crcTable is that of CRC-24 (RFC 9580, section 6.1).
var crcTable = func() (table [256]uint32) {
	for i := range table {
		crc := uint32(i) << 16
		for range 8 {
			if crc <<= 1; crc&0x1000000 != 0 {
				crc ^= 0x1864cfb
			}
		}
		table[i] = crc
	}
	return table
}()
