//! One dashboard: sections of panels, variables, annotations, links, and its JSON.

use serde_json::{Value, json};

use crate::panel::{Panel, target};

/// Grafana's own PostgreSQL data source.
pub(crate) const PLUGIN: &str = "grafana-postgresql-datasource";
/// Columns of the grid.
const WIDTH: u32 = 24;
/// Version of the JSON model: that of Grafana 10.4 and later ones read it.
const SCHEMA: u32 = 39;
/// First id of the headings, far above those of panels.
const HEADINGS: u32 = 1_000;

/// A variable that a reader chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Name; queries say `${name:sqlstring}`.
    pub name: &'static str,
    /// What is written before its values.
    pub label: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Where its values come from.
    pub values: Values,
    /// Whether several values, or all, can be chosen.
    pub multi: bool,
}

/// Where the values of a variable come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// The one column of a query.
    Query(String),
    /// A fixed list; the last one is chosen at first.
    Fixed(&'static [&'static str]),
}

/// Events that are drawn over the graphs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// What they are called.
    pub name: &'static str,
    /// Colour of their marks.
    pub color: &'static str,
    /// Query with the columns `time`, `text` and `tags`.
    pub sql: &'static str,
}

/// Panels under one heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// Its panels, from left to right and from top to bottom.
    pub panels: Vec<Panel>,
}

/// One dashboard.
#[derive(Debug, Clone, PartialEq)]
pub struct Board {
    /// Name in URLs and of its file; never changes.
    pub uid: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// What questions it answers.
    pub description: &'static str,
    /// Age of the oldest data shown at first, as in `6h`.
    pub since: &'static str,
    /// How often it asks anew, at least `10s`.
    pub refresh: &'static str,
    /// What a reader chooses.
    pub variables: Vec<Variable>,
    /// What is drawn over the graphs.
    pub annotations: Vec<Annotation>,
    /// Uid and title of other dashboards to go on with.
    pub links: Vec<(&'static str, &'static str)>,
    /// What it shows.
    pub sections: Vec<Section>,
}

/// The data source, by the variable with which a reader chooses it.
pub(crate) fn data_source() -> Value {
    json!({"type": PLUGIN, "uid": "${datasource}"})
}

impl Board {
    /// The dashboard as Grafana reads it.
    #[must_use]
    pub fn json(&self) -> Value {
        let annotations: Vec<Value> = self.annotations.iter().map(Annotation::json).collect();
        let links: Vec<Value> = self
            .links
            .iter()
            .map(|(uid, title)| link(uid, title))
            .collect();
        let variables = std::iter::once(data_source_variable());
        let variables: Vec<Value> = variables
            .chain(self.variables.iter().map(Variable::json))
            .collect();
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["counterfoil"],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "timezone": "utc",
            "time": {"from": format!("now-{}", self.since), "to": "now"},
            "refresh": self.refresh,
            "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m", "15m", "1h"]},
            "annotations": {"list": annotations},
            "templating": {"list": variables},
            "links": links,
            "panels": self.panels(),
        })
    }

    /// The panels in their places: each stands right of the one before while there is room.
    fn panels(&self) -> Vec<Value> {
        let mut panels = Vec::new();
        let mut y = 0;
        for (id, section) in (HEADINGS..).zip(&self.sections) {
            panels.push(json!({
                "id": id,
                "type": "row",
                "title": section.title,
                "collapsed": false,
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
                "panels": [],
            }));
            y += 1;
            let (mut x, mut tallest) = (0, 0);
            for panel in &section.panels {
                let (width, height) = panel.size;
                if x + width > WIDTH {
                    (x, y, tallest) = (0, y + tallest, 0);
                }
                panels.push(panel.json((x, y)));
                x += width;
                tallest = tallest.max(height);
            }
            y += tallest;
        }
        panels
    }
}

fn link(uid: &str, title: &str) -> Value {
    json!({
        "type": "link",
        "title": title,
        "url": format!("/d/{uid}"),
        "icon": "dashboard",
        "tooltip": "",
        "keepTime": true,
        "includeVars": true,
        "targetBlank": false,
        "asDropdown": false,
        "tags": [],
    })
}

fn data_source_variable() -> Value {
    json!({
        "name": "datasource",
        "label": "Books",
        "description": "The SQL endpoint of the books",
        "type": "datasource",
        "query": PLUGIN,
        "refresh": 1,
        "regex": "",
        "hide": 0,
        "includeAll": false,
        "multi": false,
        "options": [],
        "current": {},
    })
}

impl Variable {
    fn json(&self) -> Value {
        match &self.values {
            Values::Query(sql) => json!({
                "name": self.name,
                "label": self.label,
                "description": self.description,
                "type": "query",
                "datasource": data_source(),
                "definition": sql.trim(),
                "query": sql.trim(),
                // When the time range changes: what was not called in it is not offered.
                "refresh": 2,
                "sort": 1,
                "regex": "",
                "hide": 0,
                "multi": self.multi,
                "includeAll": self.multi,
                "options": [],
                "current": if self.multi {
                    json!({"selected": true, "text": ["All"], "value": ["$__all"]})
                } else {
                    json!({})
                },
            }),
            Values::Fixed(values) => {
                let last = values.last().copied().unwrap_or_default();
                let option = |value: &&str| json!({"selected": *value == last, "text": value, "value": value});
                json!({
                    "name": self.name,
                    "label": self.label,
                    "description": self.description,
                    "type": "custom",
                    "query": values.join(","),
                    "hide": 0,
                    "multi": false,
                    "includeAll": false,
                    "options": values.iter().map(option).collect::<Vec<_>>(),
                    "current": {"selected": true, "text": last, "value": last},
                })
            }
        }
    }
}

impl Annotation {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "enable": true,
            "hide": false,
            "iconColor": self.color,
            "datasource": data_source(),
            "target": target("table", self.sql),
        })
    }
}
