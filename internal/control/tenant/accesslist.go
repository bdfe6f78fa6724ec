package tenant

import (
	"context"
	"net/netip"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

const maxEntries = 200

// AddAccess adds entries to a project's IP access list (an entry that is there is
// replaced) and gives the whole list. Of each entry IPAddress, CIDR or
// SecurityGroup, Comment and DeleteAfter count. Nothing is added if one entry is
// refused. The list is stored; nodes do not enforce it yet. GROUP_NOT_FOUND,
// USER_UNAUTHORIZED, INVALID_ATTRIBUTE.
func (s *Service) AddAccess(ctx context.Context, p Principal, id keys.ProjectID, entries []store.AccessEntry) (out []store.AccessEntry, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		project, err := Require(tx, p, GroupOwner, id)
		if err != nil {
			return err
		}
		for _, in := range entries {
			e, err := accessEntry(in)
			if err != nil {
				return err
			}
			e.Project, e.Created = id, tx.Now()
			if err := tx.PutAccessEntry(e); err != nil {
				return err
			}
			if err := tx.Append(Event(p, "NETWORK_PERMISSION_ENTRY_ADDED", project, "IP access list entry %s was added.", e.Entry)); err != nil {
				return err
			}
		}
		if out, err = tx.AccessEntries(id); err != nil {
			return err
		}
		if len(out) > maxEntries {
			return apierr.Conflict("MAX_ACCESS_LIST_ENTRIES_REACHED", "An IP access list has at most %d entries.", maxEntries)
		}
		return nil
	})
	return out, err
}

// accessEntry brings an entry into canonical form.
func accessEntry(in store.AccessEntry) (store.AccessEntry, error) {
	bad := func(field, value string) error {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: %q is not an address, a CIDR block or a security group.", field, value).With(field)
	}
	if len(in.Comment) > 80 {
		return in, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute comment specified: at most 80 characters.").With("comment")
	}
	out := store.AccessEntry{Comment: in.Comment, DeleteAfter: in.DeleteAfter}
	switch {
	case in.SecurityGroup != "":
		if !strings.HasPrefix(in.SecurityGroup, "sg-") || len(in.SecurityGroup) > 64 {
			return in, bad("awsSecurityGroup", in.SecurityGroup)
		}
		out.SecurityGroup, out.Entry = in.SecurityGroup, in.SecurityGroup
		return out, nil
	case in.IPAddress != "":
		a, err := netip.ParseAddr(in.IPAddress)
		if err != nil || a.Zone() != "" {
			return in, bad("ipAddress", in.IPAddress)
		}
		if in.CIDR == "" {
			in.CIDR = netip.PrefixFrom(a, a.BitLen()).String()
		}
	}
	n, err := netip.ParsePrefix(in.CIDR)
	if err != nil {
		return in, bad("cidrBlock", in.CIDR)
	}
	n = n.Masked()
	out.CIDR, out.Entry = n.String(), n.String()
	if n.IsSingleIP() {
		out.IPAddress = n.Addr().String()
	}
	if in.IPAddress != "" && out.IPAddress != in.IPAddress && !n.IsSingleIP() {
		return in, bad("cidrBlock", in.CIDR)
	}
	return out, nil
}

// AccessList lists the entries of a project: GROUP_NOT_FOUND.
func (s *Service) AccessList(ctx context.Context, p Principal, id keys.ProjectID) (out []store.AccessEntry, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := Require(tx, p, GroupReadOnly, id); err != nil {
			return err
		}
		out, err = tx.AccessEntries(id)
		return err
	})
	return out, err
}

// AccessEntry finds an entry by address, CIDR block or security group:
// ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND.
func (s *Service) AccessEntry(ctx context.Context, p Principal, id keys.ProjectID, entry string) (out store.AccessEntry, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := Require(tx, p, GroupReadOnly, id); err != nil {
			return err
		}
		out, err = findEntry(tx, id, entry)
		return err
	})
	return out, err
}

// DeleteAccess removes an entry: ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND.
func (s *Service) DeleteAccess(ctx context.Context, p Principal, id keys.ProjectID, entry string) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		project, err := Require(tx, p, GroupOwner, id)
		if err != nil {
			return err
		}
		e, err := findEntry(tx, id, entry)
		if err != nil {
			return err
		}
		if err := tx.DeleteAccessEntry(id, e.Entry); err != nil {
			return err
		}
		return tx.Append(Event(p, "NETWORK_PERMISSION_ENTRY_REMOVED", project, "IP access list entry %s was removed.", e.Entry))
	})
}

func findEntry(tx *store.Tx, id keys.ProjectID, entry string) (store.AccessEntry, error) {
	want := entry
	if a, err := netip.ParseAddr(entry); err == nil {
		want = netip.PrefixFrom(a, a.BitLen()).String()
	} else if n, err := netip.ParsePrefix(entry); err == nil {
		want = n.Masked().String()
	}
	all, err := tx.AccessEntries(id)
	if err != nil {
		return store.AccessEntry{}, err
	}
	for _, e := range all {
		if e.Entry == want {
			return e, nil
		}
	}
	return store.AccessEntry{}, apierr.NotFound("ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND", "IP Address %s not on Atlas access list for group %s.", entry, id).With(entry, string(id))
}
