// Package instance tells this daemon from every other program that may listen
// at its addresses. The daemon answers a question at its milter and at its maps;
// doctor and setup put it, and compare.
//
// At the maps the question is the key of a map, contract.MapIdentify (socketmap_table(5)).
// At the milter it comes as an SMTP command that nobody knows (SMFIC_UNKNOWN),
// after a negotiation as an MTA makes it: every milter must take such a command,
// most answer "continue", and ours refuses it in words that only it has. MTAs
// are told not to pass such commands on, so that no client puts the question.
//
// SECURITY: an identity isn't a secret and proves nothing against somebody who
// wants to deceive. It says nothing of the rules, nor of who is protected.
package instance

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path"
	"strings"
)

// Identity is who answers. The zero value is nobody in particular.
type Identity struct {
	Version  string `json:"version"`  // of the program
	Instance string `json:"instance"` // 16 hexadecimal digits; the same for the same store
	Process  string `json:"process"`  // 16 hexadecimal digits, new at each start; "" for one that isn't asked but expected
}

const (
	program = "tlsonly"
	command = "XTLSONLY-IDENTIFY " // the SMTP command; its argument is the nonce
)

// Expected returns the identity of the daemon that has a store, whatever its
// process is. The store is what makes a daemon: only one process serves with it
// on a host, and those of a fleet that share one know the same. It is known by
// its URL without password and parameters, so that a configuration file may lie
// elsewhere for who asks.
func Expected(version, store string) Identity {
	if u, err := url.Parse(store); err == nil {
		store = u.Scheme + "://" + u.Host + path.Clean("/"+u.Path)
	}
	sum := sha256.Sum256([]byte(program + "\x00" + store))
	return Identity{Version: strings.Join(strings.Fields(version), "_"), Instance: hex.EncodeToString(sum[:8])}
}

// New returns the identity of this process as the daemon that has a store.
func New(version, store string) Identity {
	i := Expected(version, store)
	i.Process = nonce()
	return i
}

// Same reports whether i answers where want is expected: the same instance, and
// the same process where one is known. A zero want is any daemon of this kind.
func (i Identity) Same(want Identity) bool {
	return (want.Instance == "" || i.Instance == want.Instance) &&
		(want.Process == "" || i.Process == want.Process)
}

// Answer is what the daemon says to a question: "" for one that isn't put as it
// should be, and where nobody has said who the daemon is.
func (i Identity) Answer(nonce string) string {
	if i.Process == "" || len(nonce) != 16 || strings.Trim(nonce, "0123456789abcdef") != "" {
		return ""
	}
	return strings.Join([]string{program, nonce, i.Version, i.Instance, i.Process}, " ")
}

// AnswerCommand is Answer for an SMTP command that a milter was shown, "" for
// every other command.
func (i Identity) AnswerCommand(line string) string {
	nonce, ok := strings.CutPrefix(line, command)
	if !ok {
		return ""
	}
	return i.Answer(nonce)
}

// parse reads an answer; ok is false for one that isn't the answer to nonce.
func parse(answer, nonce string) (i Identity, ok bool) {
	words := strings.Fields(answer)
	if len(words) != 5 || words[0] != program || words[1] != nonce {
		return Identity{}, false
	}
	return Identity{Version: words[2], Instance: words[3], Process: words[4]}, true
}

func nonce() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
