package contract

// Senders is [binding] senders: how Postfix learns whose mail goes by our
// transports.
type Senders string

// The words of Senders.
const (
	SendersMap   Senders = "map"   // it asks for each message
	SendersTable Senders = "table" // it reads a file that setup writes
)

// Others is [binding] others: what mail of senders without a rule is bound to.
type Others string

// The words of Others.
const (
	// OthersPinned binds it to what was demanded of a destination, to TLS where
	// that is pinned, and to what it is known to publish.
	OthersPinned Others = "pinned"
	// OthersPublished binds it to DANE and MTA-STS, which are found out first.
	OthersPublished Others = "published"
	// OthersOff binds it to nothing.
	OthersOff Others = "off"
)

// Bounces is [binding] bounces: what the MTA's own mail is bound to.
type Bounces string

// The words of Bounces.
const (
	BouncesEncrypt Bounces = "encrypt" // TLS, while any rule enforces it
	BouncesOthers  Bounces = "others"  // the same as other mail
)

// OnLost is [binding] on_lost: what becomes of accepted mail whose destination
// has lost TLS since.
type OnLost string

// The words of OnLost.
const (
	OnLostDefer  OnLost = "defer"
	OnLostBounce OnLost = "bounce"
)

// Attest is [milter] attest: what becomes of a recipient whose mail Postfix
// would give to a transport that doesn't enforce TLS.
type Attest string

// The words of Attest.
const (
	AttestOff     Attest = "off"
	AttestWarn    Attest = "warn"    // log it once a message, and count it
	AttestEnforce Attest = "enforce" // defer the recipient
)

// Unreadable is [forwarding] unreadable: what is taken for true where a
// .forward can't be read.
type Unreadable string

// The words of Unreadable.
const (
	UnreadableLocal Unreadable = "local" // there is none
	UnreadableDefer Unreadable = "defer" // it isn't known, and the recipient is deferred
)
