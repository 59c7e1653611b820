// Package smime encrypts messages to people's S/MIME certificates: it reads
// certificates from files, finds those that are published in the DNS, chooses
// the one that is to be used, and writes CMS as a stream.
//
// A look-up has three results: a certificate; ErrNoCertificate, when it is
// known that there is none; and any other error, when that could not be found
// out. The third is "try again", and none of them is "in the clear".
//
// It follows RFC 8551 and 8550 (S/MIME), 5652 (CMS), 5083 and 5084 (AES-GCM),
// 3560 (OAEP), 5753 (ECDH), 3394 (AES key wrap), 8162 (SMIMEA). The encoding is
// our own: libraries hold the whole message, or can't do half of that. The
// cryptography is Go's.
package smime

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Options says how a message is encrypted. The zero value is what most clients
// read: RSA v1.5, which all do, or ECDH, and AES-256-CBC.
type Options struct {
	// OAEP encrypts to RSA keys by RSAES-OAEP with SHA-256 (RFC 3560). NSS 3.87,
	// and with it an older Thunderbird, doesn't read it; 3.110 does.
	OAEP bool
	// GCM uses AuthEnvelopedData with AES-256-GCM (RFC 5083), which nobody can
	// change unseen. NSS 3.110 doesn't read it, nor does GnuPG 2.2.
	GCM bool
	// Signer signs the message inside; nil for none.
	//
	// SECURITY: CBC has no integrity: with a signature inside, the reader's client
	// sees what was changed on the way.
	Signer *Signer
}

var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSigned        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidEnveloped     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidAuthEnveloped = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 23}

	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
	oidAES256Wrap = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 45}
	oidAES256GCM  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}

	oidRSA    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidOAEP   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	oidMGF1   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidECKey  = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}

	oidDH256 = asn1.ObjectIdentifier{1, 3, 132, 1, 11, 1} // dhSinglePass-stdDH-sha256kdf
	oidDH384 = asn1.ObjectIdentifier{1, 3, 132, 1, 11, 2}
	oidDH512 = asn1.ObjectIdentifier{1, 3, 132, 1, 11, 3}
)

// Encrypt writes what write writes, encrypted to the certificate alone, as a
// CMS ContentInfo in BER: with elements of indefinite length, as a stream, and
// keeping nothing. With a Signer, what is encrypted is the MIME entity of a
// SignedData.
//
// Errors are those of write and dst. What was written before one is no message
// and must not be sent.
func (c *Certificate) Encrypt(dst io.Writer, o Options, write func(io.Writer) error) error {
	var key [32]byte
	rand.Read(key[:]) // never fails
	defer clear(key[:])
	recipient, version, err := recipientInfo(c.X509, key[:], o)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", c.Fingerprint, err)
	}
	kind, cipherID := oidEnveloped, []byte(nil)
	iv := make([]byte, aes.BlockSize)
	if o.GCM {
		kind, version = oidAuthEnveloped, 0 // RFC 5083, section 2.1
		iv = make([]byte, 12)
	}
	rand.Read(iv)
	if o.GCM {
		// The length of the tag is 12 octets unless it is said (RFC 5084, 3.2).
		cipherID = algorithm(oidAES256GCM, tlv(tagSequence, tlv(tagOctets, iv), der(16)))
	} else {
		cipherID = algorithm(oidAES256CBC, tlv(tagOctets, iv))
	}
	head := begin(tagSequence)
	head = append(head, der(kind)...)
	head = append(head, begin(context0, tagSequence)...)
	head = append(head, der(version)...)
	head = append(head, tlv(tagSet, recipient)...)
	head = append(head, begin(tagSequence)...)
	head = append(head, der(oidData)...)
	head = append(head, cipherID...)
	head = append(head, begin(context0)...)
	if _, err := dst.Write(head); err != nil {
		return err
	}
	if o.Signer != nil {
		plain := write
		write = func(w io.Writer) error { return o.Signer.writeMIME(w, plain) }
	}
	content := &pieces{dst: dst}
	var tail []byte // behind the content: of AuthEnvelopedData the tag
	if o.GCM {
		g, err := newGCM(content, key[:], iv)
		if err != nil {
			return err
		}
		if err := write(g); err != nil {
			return err
		}
		tail = tlv(tagOctets, g.sum())
	} else {
		block, err := aes.NewCipher(key[:])
		if err != nil {
			return err
		}
		w := &cbcWriter{dst: content, mode: cipher.NewCBCEncrypter(block, iv)}
		if err := write(w); err != nil {
			return err
		}
		if err := w.finish(); err != nil {
			return err
		}
	}
	if err := content.flush(); err != nil {
		return err
	}
	_, err = dst.Write(append(append(end(2), tail...), end(3)...))
	return err
}

// cbcWriter encrypts a stream in CBC with the padding of RFC 5652, section 6.3.
type cbcWriter struct {
	dst  io.Writer
	mode cipher.BlockMode
	buf  []byte // less than a block
	out  []byte
}

func (c *cbcWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := p[:min(len(p), 32<<10)]
		p = p[len(part):]
		c.out = append(append(c.out[:0], c.buf...), part...)
		whole := len(c.out) / aes.BlockSize * aes.BlockSize
		c.buf = append(c.buf[:0], c.out[whole:]...)
		c.mode.CryptBlocks(c.out[:whole], c.out[:whole])
		if _, err := c.dst.Write(c.out[:whole]); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (c *cbcWriter) finish() error {
	pad := aes.BlockSize - len(c.buf)
	for range pad {
		c.buf = append(c.buf, byte(pad))
	}
	c.mode.CryptBlocks(c.buf, c.buf)
	_, err := c.dst.Write(c.buf)
	return err
}

// recipientInfo returns the RecipientInfo of one certificate with the key that
// encrypts the content, and the version of an EnvelopedData that has it alone
// (RFC 5652, section 6.1).
func recipientInfo(c *x509.Certificate, key []byte, o Options) (info []byte, version int, err error) {
	whose := issuerAndSerial(c)
	switch public := c.PublicKey.(type) {
	case *rsa.PublicKey:
		id := algorithm(oidRSA, null)
		var encrypted []byte
		if o.OAEP {
			sha := algorithm(oidSHA256, null)
			id = algorithm(oidOAEP, tlv(tagSequence, tlv(context0, sha), tlv(context1, algorithm(oidMGF1, sha))))
			encrypted, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, public, key, nil)
		} else {
			// What is dangerous is decryption, by who tells whether the padding was
			// good. Clients that read nothing else are what people have.
			encrypted, err = rsa.EncryptPKCS1v15(rand.Reader, public, key)
		}
		if err != nil {
			return nil, 0, err
		}
		return tlv(tagSequence, der(0), whose, id, tlv(tagOctets, encrypted)), 0, nil
	case *ecdsa.PublicKey:
		static, err := public.ECDH()
		if err != nil {
			return nil, 0, err
		}
		ephemeral, err := static.Curve().GenerateKey(rand.Reader)
		if err != nil {
			return nil, 0, err
		}
		shared, err := ephemeral.ECDH(static)
		if err != nil {
			return nil, 0, err
		}
		scheme, newHash := agreement(static.Curve())
		wrap := algorithm(oidAES256Wrap)
		kek := x963KDF(newHash, shared, sharedInfo(wrap, 256), 32)
		wrapped, err := wrapKey(kek, key)
		if err != nil {
			return nil, 0, err
		}
		point := append([]byte{0}, ephemeral.PublicKey().Bytes()...)
		originator := tlv(context0, tlv(context1, algorithm(oidECKey), tlv(0x03, point)))
		return tlv(context1, der(3), originator, algorithm(scheme, wrap),
			tlv(tagSequence, tlv(tagSequence, whose, tlv(tagOctets, wrapped)))), 2, nil
	}
	return nil, 0, fmt.Errorf("a %T can't be encrypted to", c.PublicKey)
}

// agreement returns the scheme of a curve (RFC 5753, section 7.1.4).
func agreement(curve ecdh.Curve) (asn1.ObjectIdentifier, func() hash.Hash) {
	switch curve {
	case ecdh.P384():
		return oidDH384, sha512.New384
	case ecdh.P521():
		return oidDH512, sha512.New
	}
	return oidDH256, sha256.New
}

// issuerAndSerial says whose certificate it is (RFC 5652, section 10.2.4).
func issuerAndSerial(c *x509.Certificate) []byte {
	return tlv(tagSequence, c.RawIssuer, der(c.SerialNumber))
}

// sharedInfo is ECC-CMS-SharedInfo (RFC 5753, section 7.2); bits is the length
// of the key that is derived.
func sharedInfo(keyInfo []byte, bits uint32) []byte {
	return tlv(tagSequence, keyInfo, tlv(context2, tlv(tagOctets, binary.BigEndian.AppendUint32(nil, bits))))
}

// x963KDF derives n octets (ANSI X9.63; SEC 1, section 3.6.1).
func x963KDF(newHash func() hash.Hash, secret, info []byte, n int) []byte {
	var key []byte
	for counter := uint32(1); len(key) < n; counter++ {
		h := newHash()
		h.Write(secret)
		h.Write(binary.BigEndian.AppendUint32(nil, counter))
		h.Write(info)
		key = h.Sum(key)
	}
	return key[:n]
}

// wrapKey wraps a key by another (RFC 3394, section 2.2.1).
func wrapKey(kek, key []byte) ([]byte, error) {
	if len(key)%8 != 0 || len(key) < 16 {
		return nil, errors.New("a key of this length can't be wrapped")
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	a := [16]byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}
	r := append([]byte(nil), key...)
	n := len(key) / 8
	for j := range 6 {
		for i := range n {
			copy(a[8:], r[8*i:8*i+8])
			block.Encrypt(a[:], a[:])
			copy(r[8*i:], a[8:])
			t := binary.BigEndian.Uint64(a[:8]) ^ uint64(n*j+i+1)
			binary.BigEndian.PutUint64(a[:8], t)
		}
	}
	return append(a[:8:8], r...), nil
}

// WriteMIME writes what comes behind the outside of an encrypted message: the
// MIME fields, the empty line and the CMS in base64 (RFC 8551, section 3.3),
// with CRLF. The entity inside is what write writes. Errors are as with
// Encrypt.
func (c *Certificate) WriteMIME(dst io.Writer, o Options, write func(io.Writer) error) error {
	kind := "enveloped-data"
	if o.GCM {
		kind = "authEnveloped-data"
	}
	if _, err := io.WriteString(dst, "MIME-Version: 1.0\r\n"+mimeFields(kind)); err != nil {
		return err
	}
	w, done := base64Lines(dst)
	if err := c.Encrypt(w, o, write); err != nil {
		return err
	}
	return done()
}

func mimeFields(kind string) string {
	return "Content-Type: application/pkcs7-mime; smime-type=" + kind + ";\r\n" +
		" name=\"smime.p7m\"\r\n" +
		"Content-Transfer-Encoding: base64\r\n" +
		"Content-Disposition: attachment; filename=\"smime.p7m\"\r\n" +
		"\r\n"
}
