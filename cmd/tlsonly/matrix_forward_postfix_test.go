package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/testnet/rig"
)

// What forwards and explain say is where a real Postfix delivers.
func TestMTAForwardMatrixPostfix(t *testing.T) {
	long(t)
	l := newForwardLab(t, strings.Fields("alice bob carol dave erin frank grace heidi ivan judy mallory nohome oscar peggy rupert sybil trent ursula victor walter wendy xavier yvonne zoe"))
	hash := l.postfixFiles()
	main := map[string]string{
		"smtpd_milters": "", "non_smtpd_milters": "", "myhostname": "host.example", "mydestination": "host.example", "local_transport": "local:$myhostname",
		"recipient_delimiter": "+", "mail_spool_directory": l.dir + "/spool", "append_dot_mydomain": "no",
		"alias_maps":              "texthash:DIR/aliases, hash:DIR/hashed",
		"virtual_alias_maps":      "texthash:DIR/virtual, hash:DIR/vhashed, pcre:DIR/patterns",
		"virtual_alias_domains":   "virt.example, cat.example",
		"virtual_mailbox_domains": "box.example",
		"virtual_mailbox_maps":    "inline:{joe@box.example=joe}",
		"virtual_transport":       "virtual", "virtual_mailbox_base": "DIR/spool", "virtual_uid_maps": "static:65534", "virtual_gid_maps": "static:65534",
		"recipient_canonical_maps":                "texthash:DIR/canonical",
		"recipient_bcc_maps":                      "texthash:DIR/bcc",
		"sender_bcc_maps":                         "inline:{watched@sender.example=sb@bcc.example}",
		"always_bcc":                              "always@bcc.example",
		"luser_relay":                             "lost+$local@far.example",
		"relocated_maps":                          "inline:{moved@host.example=new@far.example}",
		"relay_domains":                           "inner.example",
		"transport_maps":                          "texthash:DIR/transport",
		"sender_dependent_relayhost_maps":         "inline:{relayed@sender.example=[mx1.relay.example] both@sender.example=[mx1.relay.example]}",
		"owner_request_special":                   "yes",
		"default_privs":                           "nobody",
		"propagate_unmatched_extensions":          "canonical, virtual",
		"maximal_queue_lifetime":                  "1d",
		"minimal_backoff_time":                    "1h",
		"allow_mail_to_commands":                  "alias, forward",
		"allow_mail_to_files":                     "alias, forward",
		"sender_dependent_default_transport_maps": "inline:{routed@sender.example=smtp:[mx1.route.example] dunno@sender.example=DUNNO both@sender.example=smtp:[mx1.route.example] owner-routedlist@host.example=smtp:[mx1.route.example]}",
	}
	for name, value := range main {
		main[name] = strings.ReplaceAll(value, "DIR", l.dir)
	}
	p, m := startPostfixWith(t, rig.PostfixConfig{Main: main})
	for name, path := range hash {
		if _, err := p.Run(patient(t), "", name, "hash:"+path); err != nil {
			t.Fatal(err)
		}
	}
	cases := postfixForwards()
	ends := l.send(m.address, cases)
	l.settle(p)
	l.collect(ends)
	queue, err := p.Queue(patient(t))
	l.check(err)
	for _, message := range queue {
		for i, c := range cases {
			if message.Sender == c.sender(i) {
				ends[i]["waits"] = true
			}
		}
	}
	l.judge(cases, l.says(cases, "postfix = \""+p.Etc+"\"\n"), ends)
}

// settle waits until nothing is on its way any more.
func (l *forwardLab) settle(p *rig.Postfix) {
	l.t.Helper()
	waitFor(l.t, "the queue to settle", func() bool {
		for range 3 { // mail that is sent on is in the queue before its origin is out, but a look takes time
			queue, err := p.Queue(patient(l.t))
			l.check(err)
			for _, message := range queue {
				if message.Queue != "deferred" {
					return false
				}
			}
		}
		return true
	})
}

// postfixFiles writes the tables and users' files; it returns those to be hashed, by the program that does.
func (l *forwardLab) postfixFiles() map[string]string {
	l.file("list", "li1@far.example\nbob, li2@far.example\n# comment@far.example\n\"|DIR/deliver DIR/files/cmd-list\"\n")
	l.file("empty", "\n# nobody\n")
	l.file("inner", ":include:DIR/list2\n")
	l.file("list2", "deep@far.example\n")
	l.check(os.Chmod(l.file("closed", "closed@far.example\n"), 0))
	l.file("aliases", `plain one@far.example
two one@far.example, two@far.example
tolocal alice
nest1 nest2
nest2 nest3
nest3 deep3@far.example
self self, selfcopy@far.example
bob \bob
escaped "\\carol"
loop1 loop2
loop2 loop1
include :include:DIR/list
missing :include:DIR/nothing
closed :include:DIR/closed
directory :include:DIR/home
relative :include:list
emptylist :include:DIR/empty
nestedlist :include:DIR/inner
command "|DIR/deliver DIR/files/cmd-alias"
tofile DIR/files/tofile
tonull /dev/null
nullandmore /dev/null, more@far.example
named Some One <named@far.example>
quoted "quo ted"@far.example
percent "x%far.example"@host.example
bang "far.example!x"
folded UPPER@FAR.Example
detail+x dx@far.example
detail dy@far.example
owned owned1@far.example, nobodyhere@box.example
owner-owned postowner@far.example
routedlist member@far.example
owner-routedlist alice
tonobody nosuchname
toalias alice, tolocal, plain
tovirtual chain@virt.example
tobox joe@box.example
routed x@routed.example
literal x@[127.0.1.1]
dotted first.last@far.example
group friends: g1@far.example, g2@far.example;
`)
	l.file("virtual", `exact@virt.example v1@far.example
several@virt.example v1@far.example, v2@far.example, alice@host.example
ext@virt.example vext@far.example
ext+own@virt.example vown@far.example
@cat.example @far.example
special@cat.example kept@far.example
bare barevirt@far.example
chain@virt.example chain2@virt.example
chain2@virt.example chain3@virt.example
chain3@virt.example chained@far.example
selfv@virt.example selfv@virt.example, sv@far.example
vloop1@virt.example vloop2@virt.example
vloop2@virt.example vloop1@virt.example
toalias@virt.example nest1
touser@virt.example dave@host.example
outer@far.example changed@relay.example
`)
	l.file("patterns", "/^pat-(.*)@virt\\.example$/ $1@far.example\n/^never@/ x@far.example\n")
	l.file("canonical", "oldname@host.example alice@host.example\ncanon@virt.example canon@far.example\nbefore@far.example after@far.example\n")
	l.file("bcc", "peggy@host.example peggycopy@bcc.example\nplain@host.example plaincopy@bcc.example\none@far.example never@bcc.example\nouter2@far.example outercopy@bcc.example\n")
	l.file("transport", "routed.example smtp:[mx1.route.example]\n.routed.example smtp:route.example\nuser@far.example smtp:[mx1.relay.example]\n"+
		"dropped@far.example discard:\nbroken@far.example error:5.1.1 no\nlater.example retry:4.0.0 later\n")
	l.file("home/carol/.forward", "carolfwd@far.example\n")
	l.file("home/dave/.forward", "\\dave, davefwd@far.example\n")
	l.file("home/dave/.forward+det", "davedet@far.example\n")
	l.file("home/erin/.forward", "\"|DIR/deliver DIR/home/erin/cmd\"\n")
	l.file("home/frank/.forward", "DIR/home/frank/inbox\nfrank2@far.example\n")
	l.check(os.Chmod(l.file("home/grace/.forward", "gracefwd@far.example\n"), 0o666))
	l.check(os.Chown(l.file("home/heidi/.forward", "heidifwd@far.example\n"), 20002, 20002))
	l.file("home/ivan/.forward", "")
	l.file("home/judy/.forward", "# nothing\n\nalice\n")
	l.file("home/mallory/real", "malloryfwd@far.example\n")
	l.check(os.Symlink("real", filepath.Join(l.dir, "home/mallory/.forward")))
	l.file("home/oscar/.forward", "peggy, alice+tag, oscar@host.example, plain\n")
	l.file("home/trent/.forward", "Trent <trent@far.example>, \\trent, :include:DIR/home/trent/list\n")
	l.file("home/trent/list", "trentlist@far.example\n# not@far.example\n")
	l.file("home/ursula/.forward", "ursula@far.example\n")
	l.check(os.Chmod(filepath.Join(l.dir, "home/ursula"), 0o777))
	l.check(os.Chmod(l.file("home/victor/.forward", "victor@far.example\n"), 0o664))
	l.check(os.Chmod(l.file("home/walter/.forward", "walter@far.example\n"), 0o600))
	l.check(os.Chown(l.file("home/wendy/.forward", "wendy@far.example\n"), 0, 0))
	l.check(os.Link(l.file("home/xavier/other", "xavier@far.example\n"), filepath.Join(l.dir, "home/xavier/.forward")))
	l.file("home/yvonne/.forward", "yvonne, one@far.example,\n\ttwo@far.example\n\"|exec DIR/deliver DIR/home/yvonne/cmd\" \n\n#three@far.example\n")
	l.check(os.Chmod(filepath.Join(l.dir, "home/zoe"), 0o700))
	l.file("home/zoe/.forward", "zoe@far.example\n")
	return map[string]string{
		"postalias": l.file("hashed", "hashedalias: ha@far.example\n"),
		"postmap":   l.file("vhashed", "vh@virt.example vh@far.example\n"),
	}
}

const loops = "a loop has no end: not known is the safer side"

func postfixForwards() []forwardCase {
	return []forwardCase{
		{name: "plain"}, {name: "two"}, {name: "tolocal"}, {name: "nest1"}, {name: "self"}, {name: "bob"}, {name: "escaped"},
		{name: "loop1", differs: loops}, {name: "include"}, {name: "missing"}, {name: "closed"}, {name: "directory", differs: "what is no file may be one soon: not known is the safer side"}, {name: "relative"}, {name: "emptylist"}, {name: "nestedlist"},
		{name: "command"}, {name: "tofile"}, {name: "tonull"}, {name: "nullandmore"}, {name: "named"}, {name: "quoted"},
		{name: "percent"}, {name: "bang", differs: "what it means hangs on swap_bangpath: not known is the safer side"}, {name: "folded"}, {name: "PLAIN"}, {name: "detail+x"}, {name: "detail+z"}, {name: "plain+tag"},
		{name: "owned"}, {name: "owner-owned"}, {name: "tonobody"}, {name: "toalias"}, {name: "tovirtual"}, {name: "tobox"},
		{name: "routed"}, {name: "literal"}, {name: "dotted"}, {name: "group"}, {name: "hashedalias"},
		{name: "exact", to: "exact@virt.example"}, {name: "several", to: "several@virt.example"}, {name: "ext+x", to: "ext+x@virt.example"},
		{name: "ext+own", to: "ext+own@virt.example"}, {name: "catch-all", to: "anybody@cat.example"}, {name: "catch-all+x", to: "any+x@cat.example"},
		{name: "special", to: "special@cat.example"}, {name: "bare"}, {name: "bare+x"}, {name: "percent-client", to: "x%far.example@host.example"}, {name: "quoted-client", to: "\"x@far.example\"@host.example"}, {name: "chain", to: "chain@virt.example"},
		{name: "selfv", to: "selfv@virt.example"}, {name: "vloop1", to: "vloop1@virt.example"}, {name: "virtual-alias", to: "toalias@virt.example"},
		{name: "virtual-user", to: "touser@virt.example"}, {name: "virtual-nobody", to: "none@virt.example"}, {name: "vhashed", to: "vh@virt.example"},
		{name: "pattern", to: "pat-joe@virt.example"}, {name: "foreign", to: "outer@far.example"},
		{name: "oldname"}, {name: "canon", to: "canon@virt.example"}, {name: "canonical", to: "before@far.example"},
		{name: "peggy"}, {name: "bcc-foreign", to: "outer2@far.example", explain: true},
		{name: "sender-bcc", to: "alice@host.example", from: "watched@sender.example", explain: true},
		{name: "moved"}, {name: "luser", to: "whoever@host.example"}, {name: "luser+x", to: "whoever+x@host.example"},
		{name: "relay-domain", to: "x@inner.example", explain: true}, {name: "transport", to: "x@routed.example", explain: true},
		{name: "transport-below", to: "x@a.routed.example", explain: true}, {name: "transport-user", to: "user@far.example", explain: true},
		{name: "transport-user+x", to: "user+x@far.example", explain: true}, {name: "transport-discard", to: "dropped@far.example"},
		{name: "transport-error", to: "broken@far.example"},
		{name: "relayhost", to: "x@far.example", from: "relayed@sender.example", explain: true},
		{name: "relayhost-alias", to: "plain@host.example", from: "relayed@sender.example", explain: true},
		{name: "sender-transport", to: "x@far.example", from: "routed@sender.example", explain: true},
		{name: "sender-transport-dunno", to: "x@far.example", from: "dunno@sender.example", explain: true},
		{name: "sender-transport-alias", to: "two@host.example", from: "routed@sender.example", explain: true},
		{name: "sender-both", to: "x@far.example", from: "both@sender.example", explain: true},
		{name: "sender-both-inner", to: "x@inner.example", from: "both@sender.example", explain: true},
		{name: "mailbox", to: "joe@box.example"}, {name: "no-mailbox", to: "jim@box.example"},
		{name: "alice"}, {name: "alice+x"}, {name: "carol"}, {name: "carol+x"}, {name: "dave"}, {name: "dave+det"}, {name: "dave+other"},
		{name: "erin"}, {name: "frank"}, {name: "grace"}, {name: "heidi"}, {name: "ivan"}, {name: "judy"}, {name: "mallory"}, {name: "nohome"},
		{name: "oscar"}, {name: "trent"}, {name: "ursula"}, {name: "victor"}, {name: "walter"}, {name: "wendy"}, {name: "xavier"}, {name: "yvonne"},
		{name: "zoe"}, {name: "CAROL", to: "CAROL@HOST.example"}, {name: "routedlist"}, {name: "routedlist-null", to: "routedlist@host.example", from: "<>"},
	}
}
