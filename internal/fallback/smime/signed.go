package smime

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

var (
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningTime   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
	oidECDSA256      = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
)

// Signer is the certificate of the site with its key, which signs what is
// encrypted.
type Signer struct {
	X509  *x509.Certificate
	chain [][]byte // certificates that are sent with it, DER; its own first
	key   crypto.Signer
	id    []byte // the algorithm of its signatures
}

// ReadSigner reads a key and its certificate from a file in PEM, with those of
// its issuers behind if they are to be sent, too. The key must have no
// passphrase, be the certificate's, and be one that may sign at now.
func ReadSigner(file string, now time.Time) (*Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s, err := parseSigner(text, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

func parseSigner(text []byte, now time.Time) (*Signer, error) {
	s := &Signer{}
	var key any
	for {
		var block *pem.Block
		var err error
		if block, text = pem.Decode(text); block == nil {
			break
		}
		switch {
		case block.Type == "CERTIFICATE":
			s.chain = append(s.chain, block.Bytes)
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, errors.New("a passphrase protects the key: write it without one, readable by the daemon only")
		case key != nil:
			return nil, errors.New("more than one key")
		case block.Type == "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(s.chain) == 0 || key == nil {
		return nil, errors.New("a certificate and its key are needed, both in PEM")
	}
	var err error
	if s.X509, err = x509.ParseCertificate(s.chain[0]); err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		s.key, s.id = k, algorithm(oidRSA, null)
	case *ecdsa.PrivateKey:
		s.key, s.id = k, algorithm(oidECDSA256)
	default:
		return nil, fmt.Errorf("a key of type %T can't sign here: RSA or ECDSA can", key)
	}
	public, ok := s.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(s.X509.PublicKey) {
		return nil, errors.New("the key isn't that of the first certificate")
	}
	if err := valid(s.X509, now); err != nil {
		return nil, err
	}
	const sign = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	if s.X509.KeyUsage != 0 && s.X509.KeyUsage&sign == 0 {
		return nil, errors.New("its keyUsage doesn't let it sign")
	}
	return s, nil
}

// Sign writes what write writes, signed, as a CMS SignedData in BER that has
// its content inside: as a stream. Errors are as with Encrypt.
func (s *Signer) Sign(dst io.Writer, write func(io.Writer) error) error {
	sha := algorithm(oidSHA256)
	head := begin(tagSequence)
	head = append(head, der(oidSigned)...)
	head = append(head, begin(context0, tagSequence)...)
	head = append(head, der(1)...)
	head = append(head, tlv(tagSet, sha)...)
	head = append(head, begin(tagSequence)...)
	head = append(head, der(oidData)...)
	head = append(head, begin(context0, tagOctets|constructed)...)
	if _, err := dst.Write(head); err != nil {
		return err
	}
	digest := sha256.New()
	content := &pieces{dst: dst}
	if err := write(io.MultiWriter(digest, content)); err != nil {
		return err
	}
	if err := content.flush(); err != nil {
		return err
	}
	// Sorted, as a SET OF in DER is (X.690, section 11.6): that is what is signed.
	attributes := [][]byte{
		attribute(oidContentType, der(oidData)),
		attribute(oidSigningTime, der(time.Now().UTC())),
		attribute(oidMessageDigest, tlv(tagOctets, digest.Sum(nil))),
	}
	slices.SortFunc(attributes, bytes.Compare)
	signed := sha256.Sum256(tlv(tagSet, attributes...))
	signature, err := s.key.Sign(rand.Reader, signed[:], crypto.SHA256)
	if err != nil {
		return err
	}
	tail := end(3)
	tail = append(tail, tlv(context0, s.chain...)...)
	tail = append(tail, tlv(tagSet, tlv(tagSequence, der(1), issuerAndSerial(s.X509), sha,
		tlv(context0, attributes...), s.id, tlv(tagOctets, signature)))...)
	_, err = dst.Write(append(tail, end(3)...))
	return err
}

func attribute(oid asn1.ObjectIdentifier, value []byte) []byte {
	return tlv(tagSequence, der(oid), tlv(tagSet, value))
}

// writeMIME writes the signed entity with its MIME fields (RFC 8551, section
// 3.5.2). Its content is inside: nothing on the way can change its line ends.
func (s *Signer) writeMIME(dst io.Writer, write func(io.Writer) error) error {
	if _, err := io.WriteString(dst, mimeFields("signed-data")); err != nil {
		return err
	}
	w, done := base64Lines(dst)
	if err := s.Sign(w, write); err != nil {
		return err
	}
	return done()
}
