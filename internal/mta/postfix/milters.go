package postfix

import (
	"context"
	"net"
	"slices"
	"strings"

	"tlsonly/internal/contract"
)

// milters looks whether all mail that comes in is shown to ours, and what
// happens when it doesn't answer.
func (d *doctor) milters(ctx context.Context) {
	before := len(d.findings)
	smtpds := 0
	for _, s := range d.Services {
		switch s.Command {
		case "smtpd":
			smtpds++
			if !d.overridden(s) {
				d.milterOf(s, "smtpd_milters")
			}
			if d.option(s, "smtpd_proxy_filter") != "" {
				d.warn("milter-proxy-filter", s.placeOf("smtpd_proxy_filter"), "use content_filter or a milter instead of the proxy",
					"%s has smtpd_proxy_filter, so the milter never sees the end of a message "+
						"there, so bounces carry its text", s.ID())
			}
		case "pickup", "qmqpd":
			d.overridden(s)
		case "cleanup":
			if d.feeds(s) {
				d.milterOf(s, "non_smtpd_milters")
			}
		}
	}
	for _, at := range d.settings("smtpd_milter_maps", "smtpd") {
		d.milterMaps(ctx, at)
	}
	d.faultless(before, "milter-asked", "", "all %d smtpd services and sendmail(1) ask the milter at %s first, and defer mail while it is down", smtpds, d.milter)
	d.others()
}

// feeds reports whether what doesn't come by smtpd(8) can go through a cleanup
// service: only there its milters count.
func (f Facts) feeds(cleanup Service) bool {
	if cleanup.Name == f.value("cleanup_service_name") || cleanup.Name == "cleanup" {
		return true
	}
	return slices.ContainsFunc(f.Services, func(s Service) bool {
		return (s.Command == "pickup" || s.Command == "qmqpd") && f.option(s, "cleanup_service_name") == cleanup.Name
	})
}

// overridden finds ways in on which no milter is asked.
func (d *doctor) overridden(s Service) bool {
	const name = "receive_override_options"
	if !slices.Contains(splitList(d.option(s, name)), "no_milters") {
		return false
	}
	if !d.reinjects(s, s.placeOf(name), name+" has no_milters") {
		d.hole("milter-overridden", s.placeOf(name), "remove no_milters from it",
			"%s: %s has no_milters, so our milter isn't asked, and mail is accepted without a decision",
			s.ID(), name)
	}
	return true
}

// reinjects says of a service without our milter that a content filter gives
// mail back there, which has been shown to us on its way in. What filters drop
// is how a bounce is to look: Postfix's own bounce has the whole message then.
func (d *doctor) reinjects(s Service, where, why string) bool {
	if s.Command != "smtpd" || !d.filtered() || !loopback(s.Name) {
		return false
	}
	if d.Bounces == contract.BouncesOthers {
		d.hole("milter-reinjected", where, `[binding] bounces = "encrypt", or our milter there, too`,
			"%s: %s: it seems to take mail back from the content filter; the request for "+
				"bounces without the text is lost on the way, "+
				`and with [binding] bounces = "others" they go in the clear`, s.ID(), why)
		return true
	}
	d.warn("milter-reinjected", where, "nothing, if only the content filter can connect there",
		"%s: %s; it seems to take mail back from the content filter", s.ID(), why)
	return true
}

func (d *doctor) milterOf(s Service, parameter string) {
	place := parameter
	if _, ok := s.Options[parameter]; ok {
		place = s.ID() + " in master.cf: " + parameter
	}
	where := s.placeOf(parameter)
	list := splitList(d.option(s, parameter))
	i := slices.IndexFunc(list, d.ourMilter)
	if i < 0 {
		if d.reinjects(s, where, place+" has no milter of ours") {
			return
		}
		remedy := runSetup
		if value, ok := s.Options[parameter]; ok && d.reinjection(s) != "" {
			p := planner{Settings: d.Settings, facts: d.Facts, milter: d.milter, smap: d.smap}
			p.setEntries()
			remedy = "postconf -P '" + s.ID() + "/" + parameter + "=" + p.inService(value) + "', if mail comes in there that is not from a content filter"
		}
		d.hole("milter-missing", where, remedy, "%s (%s): our milter isn't asked", place, s.ID())
		return
	}
	entry := milterSettings(d.milterDefaults(s), list[i])
	if action := entry["default_action"]; !refuses(action) {
		d.hole("milter-default-action", where, runSetup,
			"%s: default_action=%s for our milter, so while it is down, mail is accepted without a decision", place,
			action)
	}
	for _, name := range []string{"command_timeout", "content_timeout"} {
		if got, err := parseTime(entry[name]); err != nil || got <= d.Deadline {
			d.warn("milter-timeout", where, runSetup,
				"%s: %s=%s for our milter isn't above the deadline of %v, so Postfix gives up "+
					"before it is answered", place, name, entry[name], d.Deadline)
		}
	}
	if i > 0 {
		d.milterBefore(where, place, parameter, list[:i])
	}
}

// ourMilter reports whether an entry of a list of milters is ours.
func (d *doctor) ourMilter(item string) bool {
	return d.sameSocket(milterEndpoint(item), d.milter)
}

// others names the other milters: what they do at the end of a message comes
// after our judgement of its sender.
func (d *doctor) others() {
	for _, at := range slices.Concat(d.settings("smtpd_milters", "smtpd"), d.settings("non_smtpd_milters", "cleanup")) {
		list := splitList(at.value)
		i := slices.IndexFunc(list, d.ourMilter)
		if i < 0 || len(list) == 1 {
			continue
		}
		var names []string
		for _, item := range slices.Delete(list, i, i+1) {
			names = append(names, milterEndpoint(item))
		}
		d.warn("milter-other", at.where, "make sure that none of them changes the sender, except by SRS or BATV; then accept this finding",
			"%s: it cannot be looked into whether these milters change the sender at the end of a message: %s", at.where, strings.Join(names, " "))
	}
}

// milterMaps looks which clients a table keeps from our milter.
func (d *doctor) milterMaps(ctx context.Context, at setting) {
	const remedy = "remove the entry, or add our milter to it: its clients bypass the milter"
	for _, table := range splitList(at.value) {
		entries, err := d.entries(ctx, table, at.where)
		if err != nil {
			d.warn("milter-maps", at.where, "make sure that it keeps no client from our milter",
				"smtpd_milter_maps: %s cannot be looked into: it may keep clients from our milter",
				table)
			continue
		}
		for _, e := range entries {
			if !slices.ContainsFunc(splitList(d.expand(e.value, nil)), d.ourMilter) {
				d.hole("milter-maps", e.where, remedy,
					"smtpd_milter_maps: client %s gets %q, so our milter isn't asked", e.key,
					e.value)
			}
		}
	}
}

// filtered reports whether some mail goes to a content filter and comes back.
func (d *doctor) filtered() bool {
	return d.filtering || d.value("content_filter") != "" || slices.ContainsFunc(d.Services, func(s Service) bool { return s.Options["content_filter"] != "" })
}

// loopback reports whether a host:port, with brackets or without, is on this
// machine.
func loopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	host = strings.TrimPrefix(strings.Trim(host, "[]"), "IPv6:")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
