package postfix

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/addr"
)

// The routes to protected senders that don't depend on who sends.
func TestHomes(t *testing.T) {
	t.Parallel()
	if _, err := (Instance{}).find("postmap"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"relayed": "# some\nclinic.example\nother.example\n",
		"routes":  "clinic.example relay:[inner]\nboss@shop.example relay:[boss]\n",
		"upper":   "CLINIC.example x\n",
		// What postmap(1) wants to see.
		"main.cf": "compatibility_level = 3.6\nqueue_directory = " + dir + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const relayed, inner = "clinic.example", "relay:[inner]"
	services := []string{
		"relay unix - - y - - smtp",
		"local unix - n n - - local", "lmtp unix - - y - - lmtp", "tlsonly unix - - y - - smtp",
	}
	for name, c := range map[string]struct {
		main   map[string]string
		rules  string // of patterns; "@clinic.example" where there are none
		more   string // a service besides
		want   string // domain=nexthop
		unread string
	}{
		"none":                        {},
		"relayed by name":             {main: map[string]string{"relay_domains": relayed}, want: "clinic.example=clinic.example"},
		"relayed by its parent":       {main: map[string]string{"relay_domains": "example", "parent_domain_matches_subdomains": "relay_domains"}, want: "clinic.example=clinic.example"},
		"not by its parent":           {main: map[string]string{"relay_domains": "example", "parent_domain_matches_subdomains": "x"}},
		"by what is below it":         {main: map[string]string{"relay_domains": ".example", "parent_domain_matches_subdomains": "x"}, want: "clinic.example=clinic.example"},
		"not relayed":                 {main: map[string]string{"relay_domains": "!clinic.example, clinic.example"}},
		"another domain":              {main: map[string]string{"relay_domains": "other.example", "transport_maps": "inline:{ {other.example = relay:[inner]} }"}},
		"relay_transport":             {main: map[string]string{"relay_domains": relayed, "relay_transport": inner}, want: "clinic.example=[inner]"},
		"in a file":                   {main: map[string]string{"relay_domains": dir + "/relayed", "relay_transport": inner}, want: "clinic.example=[inner]"},
		"in a table":                  {main: map[string]string{"relay_domains": "texthash:" + dir + "/upper", "relay_transport": inner}, want: "clinic.example=[inner]"},
		"in a file that is gone":      {main: map[string]string{"relay_domains": dir + "/gone"}, unread: dir + "/gone"},
		"in a table that is gone":     {main: map[string]string{"transport_maps": "texthash:" + dir + "/gone"}, unread: "texthash:" + dir + "/gone"},
		"an entry":                    {main: map[string]string{"transport_maps": "texthash:" + dir + "/routes"}, want: "clinic.example=[inner]"},
		"an entry, through proxymap":  {main: map[string]string{"transport_maps": "proxy:texthash:" + dir + "/routes"}, want: "clinic.example=[inner]"},
		"an entry of one address":     {main: map[string]string{"transport_maps": "texthash:" + dir + "/routes"}, rules: "@shop.example", want: "shop.example=[boss]"},
		"of a rule for it":            {main: map[string]string{"transport_maps": "texthash:" + dir + "/routes"}, rules: "boss@shop.example", want: "shop.example=[boss]"},
		"of a rule for another":       {main: map[string]string{"transport_maps": "texthash:" + dir + "/routes"}, rules: "x@shop.example"},
		"of a parent":                 {main: map[string]string{"transport_maps": "inline:{ {.example = relay:[inner]} }"}, want: "clinic.example=[inner]"},
		"the nearest counts":          {main: map[string]string{"transport_maps": "inline:{ {.example = relay:[inner]}, {clinic.example = local:} }"}},
		"the first table counts":      {main: map[string]string{"transport_maps": "inline:{ {clinic.example = relay:[a]} }, inline:{ {clinic.example = relay:[b]} }"}, want: "clinic.example=[a]"},
		"for domains below":           {main: map[string]string{"transport_maps": "inline:{ {a.clinic.example = relay:[inner]} }"}, rules: "@.clinic.example", want: "a.clinic.example=[inner]"},
		"of a pattern":                {main: map[string]string{"transport_maps": "regexp:{ {/@clinic\\.example$/ relay:[inner]} }"}, want: "clinic.example=[inner]"},
		"patterns see whole ones":     {main: map[string]string{"transport_maps": "regexp:{ {/^clinic\\.example$/ relay:[inner]} }"}},
		"several hosts":               {main: map[string]string{"transport_maps": "inline:{ {clinic.example = relay:[a]:26, [b]} }"}, want: "clinic.example=[a]:26 clinic.example=[b]"},
		"the default transport":       {main: map[string]string{"transport_maps": "inline:{ {clinic.example = :[inner]} }"}},
		"relayed, without transport":  {main: map[string]string{"relay_domains": relayed, "transport_maps": "inline:{ {clinic.example = :[inner]} }"}, want: "clinic.example=[inner]"},
		"relayed, without next hop":   {main: map[string]string{"relay_domains": relayed, "relay_transport": inner, "transport_maps": "inline:{ {clinic.example = smtp:} }"}, want: "clinic.example=clinic.example"},
		"our transport":               {main: map[string]string{"transport_maps": "inline:{ {clinic.example = tlsonly:[inner]} }"}},
		"no transport of that name":   {main: map[string]string{"transport_maps": "inline:{ {clinic.example = none:[inner]} }"}},
		"this machine":                {main: map[string]string{"transport_maps": "inline:{ {clinic.example = relay:[127.0.0.1]:10025} }"}},
		"delivered here":              {main: map[string]string{"mydestination": relayed, "local_transport": "local"}},
		"delivered elsewhere":         {main: map[string]string{"mydestination": relayed, "local_transport": "smtp:[inner]"}, want: "clinic.example=[inner]"},
		"mailboxes by LMTP":           {main: map[string]string{"virtual_mailbox_domains": relayed, "virtual_transport": "lmtp:[inner]"}},
		"mailboxes elsewhere":         {main: map[string]string{"virtual_mailbox_domains": "static:x", "virtual_transport": "relay:[inner]"}, want: "clinic.example=[inner]"},
		"aliases, which have none":    {main: map[string]string{"virtual_alias_domains": relayed}},
		"here before it is relayed":   {main: map[string]string{"mydestination": relayed, "local_transport": "local", "relay_domains": relayed, "relay_transport": inner}},
		"everybody, null sender":      {main: map[string]string{"relay_domains": relayed, "relay_transport": inner}, rules: "* <>"},
		"settings of the resolver":    {more: "other unix - - y - - trivial-rewrite -o transport_maps=inline:{clinic.example=relay:[inner]}", want: "clinic.example=[inner]"},
		"what depends on what's sent": {main: map[string]string{"relayhost": "[inner]", "default_transport": "smtp:[inner]"}},
	} {
		t.Run(name, func(t *testing.T) {
			main := map[string]string{}
			for _, k := range []string{"mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains", "transport_maps"} {
				main[k] = ""
			}
			main["relay_transport"] = "relay"
			for k, v := range c.main {
				main[k] = v
			}
			own := services
			if c.more != "" {
				own = append(slices.Clone(own), c.more)
			}
			var patterns []addr.Pattern
			if c.rules == "" {
				c.rules = "@clinic.example"
			}
			for _, p := range strings.Fields(c.rules) {
				patterns = append(patterns, addr.MustPattern(p))
			}
			homes, unread := facts(t, "3.7.11", main, own...).homes(t.Context(), &Tables{Instance: Instance{Dir: dir}}, patterns, nil)
			var got []string
			for _, h := range homes {
				got = append(got, fmt.Sprintf("%s=%s", h.Domain, h.Hop))
			}
			slices.Sort(got)
			if strings.Join(got, " ") != c.want || strings.Join(unread, " ") != c.unread {
				t.Errorf("got %q, unread %q; want %q, %q", got, unread, c.want, c.unread)
			}
		})
	}
}
