package maillog

import (
	"fmt"
	"strings"
)

// part is a kind of delivery in a chart.
type part struct {
	n     int64
	class string // in the page
	mark  byte   // in text
	what  string
}

// parts are the deliveries of c by kind, in the order of charts.
func parts(c Counts) []part {
	return []part{{c.Encrypted, "tls", '=', "over TLS"}, {c.ByTransport, "ours", '-', "by transport"}, {c.Content, "ours", '#', "encrypted messages"}, {c.Here, "here", 'h', "on this machine"},
		{c.Deferred + c.Bounced, "not", '.', "deferred or bounced"}, {c.Unknown, "unknown", '?', "unknown"}, {c.Clear, "clear", '!', "in the clear"}}
}

func busiest(days []Row) int64 {
	most := int64(1)
	for _, d := range days {
		most = max(most, d.All())
	}
	return most
}

// chartDays is how many days a chart shows, the last ones.
const chartDays = 92

// Chart draws deliveries by day in text: a line a day, the busiest one's bar of
// width characters. Of each kind that a day has, it shows one mark at least. It is
// "" without days.
func (p *Report) Chart(width int) string {
	if len(p.Days) == 0 {
		return ""
	}
	days := p.Days[max(0, len(p.Days)-chartDays):]
	most := busiest(days)
	var b strings.Builder
	var all Counts
	for _, d := range days {
		all.add(d.Counts)
		var bar strings.Builder
		for _, x := range parts(d.Counts) {
			if x.n > 0 {
				bar.WriteString(strings.Repeat(string(x.mark), max(1, int(x.n*int64(width)/most))))
			}
		}
		fmt.Fprintf(&b, "%-10s %s %d\n", d.Name, bar.String(), d.All())
	}
	var legend []string
	for _, x := range parts(all) {
		if x.n > 0 {
			legend = append(legend, string(x.mark)+" "+x.what)
		}
	}
	return b.String() + strings.Join(legend, ", ") + "\n"
}

// add adds o to c.
func (c *Counts) add(o Counts) {
	c.Encrypted += o.Encrypted
	c.Clear += o.Clear
	c.ByTransport += o.ByTransport
	c.Content += o.Content
	c.Unknown += o.Unknown
	c.Here += o.Here
	c.Deferred += o.Deferred
	c.Bounced += o.Bounced
	c.Violations += o.Violations
}

// chart is the page's chart of days: columns that stand on a line, in a picture
// of chartWidth by chartHeight.
type chart struct {
	Columns     []column
	First, Last string // days
	Most        int64
	Words       string // the chart for those who can't see it
	Legend      []part
	Earlier     int // days before First
}

// column is a piece of a day's column.
type column struct {
	X, Y, Width, Height float64
	Class, Title        string
}

const (
	picture       = 600.0 // width
	pictureHeight = 120.0
)

func newChart(days []Row) chart {
	var c chart
	if len(days) == 0 {
		return c
	}
	c.Earlier = max(0, len(days)-chartDays)
	days = days[c.Earlier:]
	c.First, c.Last, c.Most = days[0].Name, days[len(days)-1].Name, busiest(days)
	step := picture / float64(max(len(days), 7))
	var all Counts
	for i, d := range days {
		all.add(d.Counts)
		y := pictureHeight
		for _, x := range parts(d.Counts) {
			if x.n == 0 {
				continue
			}
			// What is rare is what one looks for: it can be seen.
			height := max(pictureHeight*float64(x.n)/float64(c.Most), 2)
			y -= height
			c.Columns = append(c.Columns, column{step*float64(i) + step*0.1, y, step * 0.8, height, x.class, fmt.Sprintf("%s: %d %s", d.Name, x.n, x.what)})
		}
	}
	var words []string
	for _, x := range parts(all) {
		if x.n > 0 {
			c.Legend = append(c.Legend, x)
			words = append(words, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	c.Words = fmt.Sprintf("Deliveries by day from %s to %s: %s", c.First, c.Last, strings.Join(words, ", "))
	return c
}

// Class is that of its colour.
func (p part) Class() string { return p.class }

// What names it.
func (p part) What() string { return p.what }
