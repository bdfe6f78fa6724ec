package console

// iconPaths are the icons on a grid of 16, drawn with a stroke of 1.5.
func iconPaths(name string) []string {
	switch name {
	case "grid":
		return []string{"M2.5 2.5h4v4h-4z", "M9.5 2.5h4v4h-4z", "M2.5 9.5h4v4h-4z", "M9.5 9.5h4v4h-4z"}
	case "database":
		return []string{"M2.5 4c0-1.1 2.5-2 5.5-2s5.5.9 5.5 2-2.5 2-5.5 2-5.5-.9-5.5-2z", "M2.5 4v8c0 1.1 2.5 2 5.5 2s5.5-.9 5.5-2V4", "M2.5 8c0 1.1 2.5 2 5.5 2s5.5-.9 5.5-2"}
	case "lock":
		return []string{"M3 7h10v7H3z", "M5 7V5a3 3 0 0 1 6 0v2"}
	case "list":
		return []string{"M5.5 4h8", "M5.5 8h8", "M5.5 12h8", "M2.5 4h.01", "M2.5 8h.01", "M2.5 12h.01"}
	case "key":
		return []string{"M5 8.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z", "M7 9l6-6", "M11 5l2 2"}
	case "person":
		return []string{"M8 2.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z", "M3 14c0-2.5 2.2-4 5-4s5 1.5 5 4"}
	case "check":
		return []string{"M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5z", "M5.5 8.2l1.8 1.8 3.2-3.8"}
	case "octagon":
		return []string{"M5.5 2h5L14 5.5v5L10.5 14h-5L2 10.5v-5z", "M6 6l4 4", "M10 6l-4 4"}
	case "square":
		return []string{"M2.5 2.5h11v11h-11z", "M6.5 6.5h3v3h-3z"}
	case "cloud-off":
		return []string{"M4.5 12.5h7a2.5 2.5 0 0 0 .6-4.9A4 4 0 0 0 5 6.2a3.2 3.2 0 0 0-.5 6.3z", "M2.5 2.5l11 11"}
	case "unknown":
		return []string{"M6 6a2 2 0 1 1 2.6 1.9c-.4.2-.6.5-.6 1.1", "M8 11.5h.01", "M3 4.5l1-1", "M12 3.5l1 1", "M13 11.5l-1 1", "M4 12.5l-1-1"}
	case "dashed":
		return []string{"M6 2.1a6 6 0 0 1 4 0", "M13 4.7a6 6 0 0 1 .9 4", "M11.8 12.7a6 6 0 0 1-3.8 1.3", "M4.2 12.7a6 6 0 0 1-2-3.3", "M2.2 6.6a6 6 0 0 1 1.2-2.4"}
	case "play":
		return []string{"M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5z", "M6.75 5.75v4.5L10.25 8z"}
	case "arrows":
		return []string{"M13.5 6.5A5.7 5.7 0 0 0 3.4 4.6L2.5 6", "M2.5 3v3h3", "M2.5 9.5a5.7 5.7 0 0 0 10.1 1.9l.9-1.4", "M13.5 13v-3h-3"}
	case "clock":
		return []string{"M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5z", "M8 4.5V8l2.3 1.5"}
	case "pause":
		return []string{"M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5z", "M6.5 6v4", "M9.5 6v4"}
	case "bell":
		return []string{"M4 11V7a4 4 0 0 1 8 0v4l1.2 1.5H2.8z", "M6.8 14h2.4"}
	case "link":
		return []string{"M6.5 9.5l3-3", "M7 4.5l1.4-1.4a3 3 0 0 1 4.3 4.3L11.3 8.8", "M9 11.5l-1.4 1.4a3 3 0 0 1-4.3-4.3L4.7 7.2"}
	case "chevrons":
		return []string{"M5 6l3-3 3 3", "M5 10l3 3 3-3"}
	case "menu":
		return []string{"M2.5 4h11", "M2.5 8h11", "M2.5 12h11"}
	case "info":
		return []string{"M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5z", "M8 7.5v3.5", "M8 5h.01"}
	case "triangle":
		return []string{"M8 2l6.5 11.5h-13z", "M8 6.5v3", "M8 11.5h.01"}
	}
	return nil
}
