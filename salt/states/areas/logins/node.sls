# Logins of the core's people on this machine itself; they are removed if the site no longer wants them. Last, because
# other states make the authority's certificate and the directory's password.
{%- set core = pillar["vcore"] %}
{%- if core["node"]["logins"] %}

People of the core log in on this machine:
  vcore_login.present:
    - groups: {{ core["node"]["logins"]["groups"] | json }}
    - made_elsewhere: {{ core["node"]["logins"]["made_elsewhere"] | json }}
    - order: last
{%- else %}

Nobody of the core logs in on this machine:
  vcore_login.absent: []
{%- endif %}
