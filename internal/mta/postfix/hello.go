package postfix

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"tlsonly/internal/mta/clienthello"
	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// finger is Postfix's own client for a look at a host's TLS: it has the library of
// smtp(8), its configuration and the settings of main.cf.
const finger = "posttls-finger"

// offers says what TLS clients offer, as they say it to a host of ours.
func (i Instance) offers(ctx context.Context, f Facts) (profile.TLS, error) {
	var all profile.TLS
	var done [][]string
	for _, s := range f.clients() {
		args := f.fingerArgs(s)
		if slices.ContainsFunc(done, func(had []string) bool { return slices.Equal(had, args) }) {
			continue
		}
		done = append(done, args)
		offered, err := clienthello.Of(ctx, func(ctx context.Context, address string) error {
			return i.finger(ctx, f, args, address)
		})
		if err != nil {
			return profile.TLS{}, err
		}
		all = all.Or(offered)
	}
	return all, nil
}

// finger has posttls-finger(1) speak to a host.
func (i Instance) finger(ctx context.Context, f Facts, args []string, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	cmd, err := i.command(ctx, finger, append(slices.Clone(args), fmt.Sprintf("[%s]:%s", host, port))...)
	if err != nil {
		return err
	}
	if i.Dir != "" { // it knows no -c DIR
		cmd.Args = slices.Concat(cmd.Args[:1], cmd.Args[3:])
	}
	cmd.Env = f.environment()
	said, err := cmd.CombinedOutput()
	if err == nil {
		return fmt.Errorf("%s: %s", finger, lastLine(string(said)))
	}
	return fmt.Errorf("%s: %w: %s", finger, err, lastLine(string(said)))
}

// environment is that of Postfix's programs: nothing of ours, such as another
// configuration of OpenSSL, but what import_environment sets.
func (f Facts) environment() []string {
	env := []string{"MAIL_CONFIG=" + f.Dir, "PATH=" + os.Getenv("PATH")}
	for _, item := range splitList(f.value("import_environment")) {
		if strings.Contains(strings.Trim(item, "{}"), "=") {
			env = append(env, strings.TrimSpace(strings.Trim(item, "{}")))
		}
	}
	return env
}

// clients are those that protected mail leaves by: ours, else the site's own.
func (f Facts) clients() []Service {
	var own []Service
	for _, s := range f.Services {
		if s.Command == "smtp" && isOurs(s) {
			own = append(own, s)
		}
	}
	if len(own) == 0 {
		own = []Service{(&planner{facts: f}).site()}
	}
	return own
}

// fingerArgs are arguments of posttls-finger(1) that make it offer what a client
// offers where TLS is mandatory. The grade is that of the answers that it gets from
// the daemon, whatever smtp_tls_mandatory_ciphers is.
func (f Facts) fingerArgs(s Service) []string {
	const list = "tls_medium_cipherlist"
	ciphers := f.option(s, list)
	for _, name := range []string{"smtp_tls_exclude_ciphers", "smtp_tls_mandatory_exclude_ciphers"} {
		for _, item := range strings.FieldsFunc(f.option(s, name), func(r rune) bool { return strings.ContainsRune(" \t\r\n,:", r) }) {
			ciphers += ":!" + item
		}
	}
	args := []string{"-c", "-l", "encrypt", "-g", "medium", "-t", "10", "-T", "10", "-p", f.option(s, "smtp_tls_mandatory_protocols")}
	set := func(name, value string) { args = append(args, "-o", name+"="+value) }
	set("inet_protocols", "ipv4")
	set("smtp_bind_address", "")
	if ciphers != "" {
		set(list, ciphers)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Options)) {
		if strings.HasPrefix(name, "tls_") && !strings.HasSuffix(name, "_cipherlist") {
			set(name, f.option(s, name))
		}
	}
	return args
}

// versions are the TLS versions of a list of protocols: postconf(5),
// smtp_tls_mandatory_protocols.
func versions(list string) []policy.Version {
	names := []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}
	last := len(names) - 1
	excluded := make(map[string]bool)
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(" \t,:", r) }) {
		if name, ok := strings.CutPrefix(word, "<="); ok {
			last = slices.Index(names, name) // -1 for SSL: none
		} else if name, ok := strings.CutPrefix(word, "!"); ok {
			excluded[name] = true
		}
	}
	found := []policy.Version{}
	for i, name := range names {
		if v := policy.TLS10 + policy.Version(i); i <= last && !excluded[name] && v >= lowestProtocol(list) {
			found = append(found, v)
		}
	}
	return found
}

// settled are the versions that clients may speak by their settings.
func (f Facts) settled() (found []policy.Version) {
	for _, s := range f.clients() {
		for _, v := range versions(f.option(s, "smtp_tls_mandatory_protocols")) {
			if !slices.Contains(found, v) {
				found = append(found, v)
			}
		}
	}
	slices.Sort(found)
	return found
}

// wraps reports whether a client speaks TLS from the first octet on: postconf(5),
// smtp_tls_wrappermode.
func (f Facts) wraps() bool {
	return f.value(wrapperMode) == "yes" || slices.ContainsFunc(f.Services, func(s Service) bool {
		return f.option(s, wrapperMode) == "yes"
	})
}

const wrapperMode = "smtp_tls_wrappermode"
