package contract

import "strings"

// Tag is what a message in Sendmail's queue is held to. The milter writes it at
// the head of the envelope id (RFC 3461, section 4.4), and Sendmail's rules read
// it: TLSONLY.encrypt.ORIGINAL.
type Tag string

// The tags, weakest first. Beyond its tag, each recipient is held to what the
// daemon answers at delivery.
const (
	TagAsk     Tag = "ask"     // nothing without our answer: some of the recipients are protected
	TagEncrypt Tag = "encrypt" // TLS
	TagVerify  Tag = "verify"  // as TagName; a client may ask for it
	TagName    Tag = "name"    // TLS with a host that proves who it is

	// TagFree is what the rules say in their question of a message without a tag.
	TagFree Tag = "free"
)

// Tags are those that a message can have, weakest first.
func Tags() []Tag { return []Tag{TagAsk, TagEncrypt, TagVerify, TagName} }

// TagPrefix begins an envelope id that has a tag.
const TagPrefix = "TLSONLY."

// EnvelopeID returns the beginning of an envelope id with the tag: up to where
// the client's own id follows.
func (t Tag) EnvelopeID() string { return TagPrefix + string(t) + "." }

// CutTag takes the tag off an envelope id. It is false where there is none.
func CutTag(id string) (t Tag, rest string, ok bool) {
	for _, t := range Tags() {
		if rest, ok := strings.CutPrefix(id, t.EnvelopeID()); ok {
			return t, rest, true
		}
	}
	return "", id, false
}

// Question is what Sendmail's rules ask MapTLSRcpt about one recipient: macros,
// as Sendmail shows them.
type Question struct {
	Verify      string // {verify}: what became of STARTTLS and the certificate
	Fingerprint string // {cert_fp}
	Server      string // {server_name}
	Hop         string // $h: the next hop
	Tag         Tag
	Sender      string // $f: as it is in the queue
	Written     string // $g: as the host is told
	Host        string // $j: Sendmail's own name
	Reporter    string // $n: the sender of what Sendmail writes itself
	Recipient   string
	// Former says that rules of an earlier setup ask, which leave out Written,
	// Host and Reporter.
	Former bool
}

// The versions of the question, which begin it.
const (
	questionVersion = "v3"
	FormerQuestion  = "v2"
)

// Key writes a question as the key of the map: "v3<OK><…>…".
func (q Question) Key() string {
	fields := []string{q.Verify, q.Fingerprint, q.Server, q.Hop, string(q.Tag), q.Sender, q.Written, q.Host, q.Reporter, q.Recipient}
	version := questionVersion
	if q.Former {
		version = FormerQuestion
		fields = append(fields[:6], q.Recipient)
	}
	return version + "<" + strings.Join(fields, "><") + ">"
}

// ParseQuestion reads a key. It is false for one that can't be read.
//
// SECURITY: sender and recipient are the client's to choose. No field may hold
// a bracket. Any more than there are, wherever they are from, are a doubt.
func ParseQuestion(key string) (q Question, ok bool) {
	rest, ok := strings.CutPrefix(key, questionVersion)
	if !ok {
		if rest, q.Former = strings.CutPrefix(key, FormerQuestion); !q.Former {
			return Question{}, false
		}
	}
	var tag string
	fields := []*string{&q.Verify, &q.Fingerprint, &q.Server, &q.Hop, &tag, &q.Sender, &q.Written, &q.Host, &q.Reporter, &q.Recipient}
	if q.Former {
		fields = append(fields[:6], &q.Recipient)
	}
	for _, field := range fields {
		inner, after, closed := strings.Cut(rest, ">")
		if !closed || !strings.HasPrefix(inner, "<") || strings.Contains(inner[1:], "<") {
			return Question{}, false
		}
		*field, rest = inner[1:], after
	}
	q.Tag = Tag(tag)
	return q, rest == ""
}

// Consent is an answer to a question of Sendmail's.
type Consent string

// The answers. Those of MapTLSRcpt are the first three; whatever else Sendmail
// hears is no consent.
const (
	Pass   Consent = "PASS"
	Defer  Consent = "DEFER"
	Reject Consent = "REJECT"
	Free   Consent = "FREE" // of MapReport; otherwise it answers that it fails for now
)
