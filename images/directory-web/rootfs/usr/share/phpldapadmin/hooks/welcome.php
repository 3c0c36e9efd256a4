<?php
// The first page, instead of phpLDAPadmin's own.
require './common.php';
?>
<div style="max-width: 45em; margin: 2em auto; line-height: 1.5">
<h3>People and groups</h3>
<p>Open <b>ou=people</b> or <b>ou=groups</b> on the left. <b>Create a child entry</b> makes a person or a group, with the
next free number. A first password, and with it the rest of a new account (its home, what file sharing needs), comes with
<code>salt-call vcore.user_reset_password NAME</code> on the head.</p>
<p>To add people to a group, or remove them, change either of its lists of members; the other follows when states are
applied. Members of <b>cn=administrators</b> may log in here.</p>
<p><b>Passwords are not changed on these pages.</b> People change theirs with <code>salt-call vcore.sync_password</code>
on the file router. Accounts are locked with <code>salt-call vcore.user_lock NAME</code> and removed, home and all, with
<code>salt-call vcore.user_remove NAME</code>, both on the head.</p>
</div>
