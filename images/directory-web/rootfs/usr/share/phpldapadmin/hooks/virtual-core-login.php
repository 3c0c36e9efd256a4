<?php
// The login page. It needs no session, and says why somebody was refused ($refusal, text).
$organization = json_decode(file_get_contents('/etc/virtual-core/directory-web.json'), true)['organization'];
header('Content-Type: text/html; charset=UTF-8');
header('Cache-Control: no-store');
?>
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="/images/favicon.ico">
<title>Directory - <?= htmlspecialchars($organization) ?></title>
<style>
body { font: 16px/1.5 sans-serif; color: #222; background: #f3f4f6; margin: 0; }
main { max-width: 24rem; margin: 10vh auto 0; padding: 2rem; background: #fff; border: 1px solid #d5d8dd; }
h1 { font-size: 1.3rem; margin: 0; }
label { display: block; margin-top: 1rem; font-weight: bold; }
input { box-sizing: border-box; width: 100%; padding: .4rem; font: inherit; }
button { margin-top: 1.5rem; padding: .4rem 1.5rem; font: inherit; }
small { color: #555; }
.refusal { border-left: 4px solid #b00020; padding: .2rem .8rem; background: #fdecee; }
</style>
</head>
<body>
<main>
<h1>Directory of <?= htmlspecialchars($organization) ?></h1>
<p>Only administrators log in here, to see to people and groups.</p>
<?php if (isset($refusal)) { ?>
<p class="refusal" role="alert"><?= htmlspecialchars($refusal) ?></p>
<?php } ?>
<form action="/login" method="post">
<input type="hidden" name="cmd" value="login">
<label for="login">Login name</label>
<input id="login" name="login" autocomplete="username" autocapitalize="none" maxlength="31" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="1024" required>
<button type="submit">Log in</button>
</form>
<p><small>Passwords are changed with <code>salt-call vcore.sync_password</code> on the file router.</small></p>
</main>
</body>
</html>
